//! Reference cases of whitening and of the methods whose credit is one number a token.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::column::Mask;
use apportion_core::exec::Exec;
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::whiten::{Whitening, whiten_tokens};
use common::cases;

#[test]
fn masked_whiten() {
    for case in cases("verl_masked_whiten") {
        let exec = Exec::default();
        let (rows, width) = case.shape("values");
        let mask = case.flat("mask");
        let rows = Offsets::even(rows, width).unwrap();
        let rollouts = Rollouts::packed(rows, Mask::F64(&mask), &exec).unwrap();
        let mut values = case.flat("values");
        let shift_mean = case.hyper("shift_mean") == true;
        let ddof = if case.hyper("unbiased") == true { 1.0 } else { 0.0 };
        let eps = case.hyper("eps").as_f64().unwrap();
        let rule = Whitening { shift_mean, ddof, eps, ..Whitening::VERL };
        whiten_tokens(&rollouts, &mut values, &rule, false, |_| true).unwrap();
        case.check("whitened", &values);
    }
}
