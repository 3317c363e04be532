//! The log: whatever is changed in it is found, whatever is cut off it was never there.

#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use apportion_core::exec::Exec;
use apportion_core::options::Settings;
use apportion_core::tree::persist::log::{Reader, Writer};
use apportion_core::tree::persist::record::{Item, decode, encode};
use apportion_core::tree::persist::{Error, Result, whole};
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules::{self, RULES};
use apportion_core::tree::search::{Answers, Forest, Limits, NumberRows, Order, TokenRows};
use proptest::prelude::*;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("apportion-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn read(path: &Path) -> Result<(Vec<Vec<u8>>, u64)> {
    let mut reader = Reader::open(path)?;
    let mut found = Vec::new();
    while let Some(payload) = reader.read()? {
        found.push(payload);
    }
    Ok((found, reader.cut_short()))
}

fn written(path: &Path, payloads: &[Vec<u8>]) -> Vec<u8> {
    let _ = fs::remove_file(path);
    let mut writer = Writer::create(path).unwrap();
    for payload in payloads {
        writer.append(payload).unwrap();
    }
    writer.sync().unwrap();
    let bytes = fs::read(path).unwrap();
    assert_eq!(writer.size(), bytes.len() as u64);
    bytes
}

fn sample() -> Vec<Vec<u8>> {
    vec![b"first".to_vec(), vec![], (0..40).collect(), b"last".to_vec()]
}

#[test]
fn every_flipped_bit_is_found() {
    let folder = folder("flip");
    let path = folder.join("log");
    let bytes = written(&path, &sample());
    assert_eq!(read(&path).unwrap(), (sample(), 0));
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            fs::write(&path, &changed).unwrap();
            assert!(matches!(read(&path), Err(Error::Damaged { .. })), "byte {place} bit {bit}");
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn whatever_is_cut_off_leaves_the_records_before_it() {
    let folder = folder("cut");
    let path = folder.join("log");
    let bytes = written(&path, &sample());
    for size in 8..bytes.len() {
        fs::write(&path, &bytes[..size]).unwrap();
        let (found, cut) = read(&path).unwrap();
        assert!(found.len() < sample().len() && sample().starts_with(&found));
        // Going on writes what was lost once more, and the file is as if never cut.
        let mut reader = Reader::open(&path).unwrap();
        while reader.read().unwrap().is_some() {}
        assert_eq!(reader.cut_short(), cut);
        let mut writer = reader.into_writer(&path).unwrap();
        for payload in &sample()[found.len()..] {
            writer.append(payload).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    for size in 0..8 {
        fs::write(&path, &bytes[..size]).unwrap();
        assert!(matches!(read(&path), Err(Error::Damaged { at: 0, .. })));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn records_taken_out_doubled_or_moved_are_found() {
    let folder = folder("moved");
    let path = folder.join("log");
    let bytes = written(&path, &sample());
    let ends: Vec<usize> = sample()
        .iter()
        .scan(8, |at, payload| {
            *at += payload.len() + 16;
            Some(*at)
        })
        .collect();
    let second = &bytes[ends[0]..ends[1]];
    for changed in [
        [&bytes[..ends[0]], &bytes[ends[1]..]].concat(),
        [&bytes[..ends[1]], second, &bytes[ends[1]..]].concat(),
        [&bytes[..8], second, &bytes[8..ends[0]], &bytes[ends[1]..]].concat(),
    ] {
        fs::write(&path, &changed).unwrap();
        assert!(matches!(read(&path), Err(Error::Damaged { .. })));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_old_log_is_not_overwritten() {
    let folder = folder("old");
    let path = folder.join("log");
    written(&path, &sample());
    assert!(matches!(Writer::create(&path), Err(Error::Io(_))));
    assert_eq!(read(&path).unwrap().0, sample());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn whole_files_are_whole_or_refused() {
    let folder = folder("whole");
    let path = folder.join("snapshot.bin");
    let magic = b"MAGIC\n\0\x01";
    whole::write(&path, magic, b"before").unwrap();
    whole::write(&path, magic, b"content").unwrap();
    assert_eq!(whole::read(&path, magic).unwrap(), b"content");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    let bytes = fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        assert!(matches!(whole::read(&path, magic), Err(Error::Damaged { .. })), "byte {place}");
        fs::write(&path, &bytes[..place]).unwrap();
        assert!(matches!(whole::read(&path, magic), Err(Error::Damaged { .. })), "cut at {place}");
    }
    fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
    assert!(matches!(whole::read(&path, magic), Err(Error::Damaged { .. })));
    fs::remove_dir_all(folder).unwrap();
}

fn item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        Just(Item::Nothing),
        any::<bool>().prop_map(Item::Bool),
        any::<i64>().prop_map(Item::Int),
        any::<f64>().prop_map(Item::Float),
        ".*".prop_map(Item::Text),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Item::Bools),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(Item::Ints),
        prop::collection::vec(any::<f64>(), 0..9).prop_map(Item::Floats),
        prop::collection::vec(any::<u32>(), 0..9).prop_map(Item::Tokens),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Item::Bytes),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Item::List),
            prop::collection::vec((".*", inner), 0..4).prop_map(Item::Map),
        ]
    })
}

proptest! {
    #[test]
    fn items_come_back(item in item()) {
        let mut bytes = Vec::new();
        encode(&item, &mut bytes);
        let mut again = Vec::new();
        encode(&decode(&bytes).unwrap(), &mut again); // bit by bit, NaN too
        prop_assert_eq!(&again, &bytes);
        for size in 0..bytes.len() {
            prop_assert!(decode(&bytes[..size]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
    }
}

#[test]
fn lengths_that_lie_and_lists_without_end_are_refused() {
    for tag in [4, 5, 6, 7, 8, 9, 10, 11] {
        let bytes = [&[tag][..], &u64::MAX.to_le_bytes()].concat();
        assert!(matches!(decode(&bytes), Err(Error::Damaged { at: 1, .. })));
    }
    let mut deep = Vec::new();
    for _ in 0..100_000 {
        deep.push(5);
        deep.extend(1_u64.to_le_bytes());
    }
    deep.push(0);
    assert!(matches!(decode(&deep), Err(Error::Damaged { .. })));
}

// Forests.

fn forest(rule: &str, seed: u64) -> Forest {
    let rule = rules::make(rule, &Settings::new()).unwrap();
    let limits = Limits {
        max_nodes: 400,
        simulations: 60,
        seed,
        merge: seed % 2 == 1 && rule.merges(),
        variance: seed % 3 == 1,
        widening: (seed % 4 == 2).then_some((2.0, 0.5)),
        ..Limits::default()
    };
    Forest::new(3, rule, limits).unwrap()
}

/// One round of asking and telling, some answers of which fail or are left out; whether
/// anything was asked.
fn go_on(forest: &mut Forest, seed: u64, all: bool) -> bool {
    let mut leaves = forest.unanswered();
    if leaves.is_empty() {
        leaves = forest.select(7, 3, Order::Priority, &Exec::new(1, None)).unwrap();
    }
    for (i, leaf) in leaves.iter().enumerate() {
        let draw = Draw::new(seed, leaf.tree as usize, leaf.ask.node, "test");
        let root = leaf.ask.node == 0;
        match draw.bits(0) % 8 {
            0 if !root => forest.fail(&[leaf.ticket]).unwrap(),
            _ if i == 2 && !all => {}
            _ => {
                let children = if root { 3 } else { (draw.bits(1) % 4) as usize };
                let tokens: Vec<u32> = (0..children as u32).map(|t| t % 2).collect();
                let lengths = vec![1; children];
                let log_probs = vec![-draw.uniform(3); children];
                let scores = NumberRows { values: &log_probs, lengths: &lengths };
                let answers = Answers {
                    tickets: &[leaf.ticket],
                    children: &[children],
                    values: Some(&[draw.uniform(2)]),
                    priors: Some(&vec![0.25; children]),
                    child_values: Some(&vec![0.5; children]),
                    tokens: Some(TokenRows { values: &tokens, lengths: &lengths }),
                    token_log_probs: (i % 2 == 0).then_some(scores),
                    child_scores: (i % 3 == 0).then_some(scores),
                    ..Answers::default()
                };
                forest.expand(&answers, false, 1).unwrap();
            }
        }
    }
    !leaves.is_empty()
}

#[test]
fn a_saved_forest_goes_on_as_the_one_that_was_saved() {
    for (seed, rule) in (0..12).zip(RULES.iter().map(|card| card.name).cycle()) {
        let mut live = forest(rule, seed);
        for round in 0..20 {
            let state = live.save();
            let mut again = forest(rule, seed);
            again.load(&state).unwrap();
            assert_eq!(again.save(), state);
            assert_eq!(again.unanswered(), live.unanswered());
            go_on(&mut again, seed, round % 3 != 0);
            if !go_on(&mut live, seed, round % 3 != 0) {
                break;
            }
            assert_eq!(again.save(), live.save());
        }
        assert!(live.trees().iter().all(|tree| tree.len() > 3), "{rule}");
    }
}

#[test]
fn states_of_other_searches_and_odd_bytes_are_refused() {
    let mut live = forest("puct", 1);
    for _ in 0..6 {
        go_on(&mut live, 1, false);
    }
    let state = live.save();
    let fresh = forest("puct", 1).save();
    for size in 0..state.len() {
        let mut again = forest("puct", 1);
        assert!(again.load(&state[..size]).is_err());
        assert_eq!(again.save(), fresh, "what is refused changes nothing");
    }
    assert!(forest("puct", 1).load(&[&state[..], &[0]].concat()).is_err());
    let two = Limits { max_nodes: 9, ..Limits::default() };
    let mut other = Forest::new(2, rules::make("puct", &Settings::new()).unwrap(), two).unwrap();
    assert!(other.load(&state).is_err());
    for place in 0..state.len() {
        let mut changed = state.clone();
        changed[place] ^= 1 << (place % 8);
        let _ = forest("puct", 1).load(&changed); // read or refused, but no panic
    }
}
