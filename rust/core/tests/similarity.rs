//! Ratios of alike strings: reference cases, naive versions, and how they group.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashMap;

use apportion_core::error::Error;
use apportion_core::exec::Exec;
use apportion_core::similarity::{Similar, Similarity, difflib_ratio, first_fit, indel_ratio};
use common::cases;
use proptest::prelude::*;

#[test]
fn reference_ratios() {
    let exec = Exec::default();
    let ratio = |pair: &serde_json::Value| {
        difflib_ratio(pair[0].as_str().unwrap(), pair[1].as_str().unwrap(), &exec).unwrap()
    };
    for case in cases("gigpo").iter().filter(|case| case.has_output("ratio")) {
        let pairs = case.input("pairs").as_array().unwrap();
        case.check("ratio", &pairs.iter().map(ratio).collect::<Vec<_>>());
    }
}

#[test]
fn long_comparisons_can_be_stopped() {
    let stop = || true;
    let exec = Exec::new(1, Some(&stop));
    let long: String = (0..120_000u32).filter_map(|i| char::from_u32(i * 7919 % 1200)).collect();
    let turned: String = long.chars().rev().collect();
    assert_eq!(difflib_ratio(&long, &turned, &exec), Err(Error::Interrupted));
    assert_eq!(indel_ratio(&long, &turned, 0.0, &exec), Err(Error::Interrupted));
    let rule = Similar { similarity: Similarity::Indel, threshold: 0.95 };
    let many: Vec<String> = (0..40_000).map(|i| format!("state number {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(first_fit(&many, rule, &exec), Err(Error::Interrupted));
}

/// `difflib` as its documentation describes it, by recursion and plain search.
/// (Python's own module is the oracle in `tests/`.)
fn naive_difflib(a: &[char], b: &[char], popular: &[char]) -> usize {
    let (mut i, mut j, mut best) = (0, 0, 0);
    for x in 0..a.len() {
        for y in 0..b.len() {
            let pairs = a[x..].iter().zip(&b[y..]);
            let length = pairs.take_while(|(p, q)| p == q && !popular.contains(p)).count();
            if length > best {
                (i, j, best) = (x, y, length);
            }
        }
    }
    while i > 0 && j > 0 && a[i - 1] == b[j - 1] {
        (i, j, best) = (i - 1, j - 1, best + 1);
    }
    best += a[i + best..].iter().zip(&b[j + best..]).take_while(|(p, q)| p == q).count();
    if best == 0 {
        return 0;
    }
    best + naive_difflib(&a[..i], &b[..j], popular)
        + naive_difflib(&a[i + best..], &b[j + best..], popular)
}

fn naive_difflib_ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut counts = HashMap::new();
    b.iter().for_each(|&symbol| *counts.entry(symbol).or_insert(0) += 1);
    let most = if b.len() >= 200 { b.len() / 100 + 1 } else { b.len() };
    let popular: Vec<char> =
        counts.into_iter().filter(|&(_, n)| n > most).map(|(symbol, _)| symbol).collect();
    naive_ratio(naive_difflib(&a, &b, &popular), a.len() + b.len())
}

fn naive_indel_ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..a.len() {
        for j in 0..b.len() {
            table[i + 1][j + 1] =
                if a[i] == b[j] { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
        }
    }
    naive_ratio(table[a.len()][b.len()], a.len() + b.len())
}

fn naive_ratio(matched: usize, total: usize) -> f64 {
    if total == 0 { 1.0 } else { 2.0 * matched as f64 / total as f64 }
}

/// A string and a second one made from it by a few edits, or an unrelated one.
fn pair() -> impl Strategy<Value = (String, String)> {
    let alphabet = prop_oneof![
        Just(vec!['a', 'b']),
        Just("abcdefgh 12".chars().collect::<Vec<_>>()),
        Just("aé观\u{10400}b".chars().collect()),
    ];
    alphabet.prop_flat_map(|alphabet| {
        let symbol = prop::sample::select(alphabet);
        let base = prop::collection::vec(symbol.clone(), 0..320);
        let edit = (any::<prop::sample::Index>(), prop::option::of(symbol.clone()));
        let edits = prop::collection::vec(edit, 0..12);
        (base.clone(), edits, prop::option::weighted(0.2, base)).prop_map(|(base, edits, other)| {
            let mut edited = base.clone();
            for (at, symbol) in edits {
                let at = at.index(edited.len() + 1);
                match symbol {
                    Some(symbol) => edited.insert(at, symbol),
                    None if at < edited.len() => drop(edited.remove(at)),
                    None => {}
                }
            }
            (base.into_iter().collect(), other.unwrap_or(edited).into_iter().collect())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn difflib_equals_the_naive_one((a, b) in pair()) {
        let got = difflib_ratio(&a, &b, &Exec::default()).unwrap();
        prop_assert_eq!(got, naive_difflib_ratio(&a, &b));
    }

    #[test]
    fn indel_equals_the_table_and_its_cutoff_changes_no_decision(
        (a, b) in pair(), cutoff in 0.0..=1.0f64,
    ) {
        let (exec, want) = (Exec::default(), naive_indel_ratio(&a, &b));
        prop_assert_eq!(indel_ratio(&a, &b, 0.0, &exec).unwrap(), want);
        prop_assert_eq!(indel_ratio(&a, &b, want, &exec).unwrap(), want);
        let cut = indel_ratio(&a, &b, cutoff, &exec).unwrap();
        prop_assert_eq!(cut, if want >= cutoff { want } else { 0.0 });
        prop_assert!(naive_difflib_ratio(&a, &b) <= want);
    }

    #[test]
    fn first_fit_equals_the_naive_loop(
        pairs in prop::collection::vec(pair(), 0..5), threshold in 0.0..=1.0f64,
    ) {
        let all: Vec<&str> = pairs.iter().flat_map(|(a, b)| [&a[..], &b[..]]).collect();
        for (similarity, ratio) in [
            (Similarity::Difflib, naive_difflib_ratio as fn(&str, &str) -> f64),
            (Similarity::Indel, naive_indel_ratio),
        ] {
            let mut want: Vec<usize> = Vec::new();
            for (i, text) in all.iter().enumerate() {
                let fits = |&j: &usize| want[j] == j && ratio(text, all[j]) >= threshold;
                want.push((0..i).find(fits).unwrap_or(i));
            }
            let rule = Similar { similarity, threshold };
            prop_assert_eq!(first_fit(&all, rule, &Exec::default()).unwrap(), want);
        }
    }
}
