//! Credit to tokens and back: values of trajectories or turns written over their tokens,
//! and token values averaged over turns.
//!
//! The last step of the way. May depend on `rollouts`, `credit` and below.

use std::borrow::Cow;
use std::ops::Range;

use crate::column::{Floats, Mask};
use crate::credit::Values;
use crate::error::Result;
use crate::exec::cut;
use crate::memory::zeroed;
use crate::rollouts::{CHUNK_TOKENS, Rollouts, Turns};
use crate::tokens::Real;

/// Writes `values` over their trained tokens and `fill` over all others, as one
/// flat array in the layout of the rollouts' rows. Token values pass through.
pub fn to_tokens(
    rollouts: &Rollouts<'_>,
    values: &Values,
    fill: f64,
    double: bool,
) -> Result<Floats<'static>> {
    let source = match (values, rollouts.turn_places()) {
        (Values::Tokens(values), _) => {
            return Ok(match (values, double) {
                (Floats::F32(v), true) => Floats::F64(v.iter().map(|&x| f64::from(x)).collect()),
                (Floats::F64(v), false) => Floats::F32(v.iter().map(|&x| x as f32).collect()),
                (same, _) => same.clone(),
            });
        }
        (Values::Trajectories(v), None) => Source::Rows(Cow::Borrowed(v)),
        (Values::Trajectories(v), Some(places)) => {
            let of_turn: Vec<f64> = rollouts.turns()?.trajectories().map(|t| v[t]).collect();
            Source::Rows(Cow::Owned(scatter(&of_turn, places)))
        }
        (Values::Turns(v), Some(places)) => Source::Rows(Cow::Owned(scatter(v, places))),
        (Values::Turns(v), None) => Source::Turns(rollouts.turns()?, v),
    };
    write(rollouts, &source, fill, double)
}

/// Writes one value a turn over the trained tokens of `turns` and `fill` over all
/// others. For methods that find turns of their own in packed rows.
pub fn turns_to_tokens(
    rollouts: &Rollouts<'_>,
    turns: &Turns,
    values: &[f64],
    fill: f64,
    double: bool,
) -> Result<Floats<'static>> {
    write(rollouts, &Source::Turns(turns, values), fill, double)
}

/// Where each written value comes from.
enum Source<'v> {
    /// One value a row.
    Rows(Cow<'v, [f64]>),
    /// One value a turn, where turns share a row.
    Turns(&'v Turns, &'v [f64]),
}

fn write(
    rollouts: &Rollouts<'_>,
    source: &Source<'_>,
    fill: f64,
    double: bool,
) -> Result<Floats<'static>> {
    Ok(if double {
        Floats::F64(Cow::Owned(spread(rollouts, source, fill)?))
    } else {
        Floats::F32(Cow::Owned(spread(rollouts, source, fill)?))
    })
}

/// Turns handed to a thread at a time on the way back.
const TURNS_AT_A_TIME: usize = 1 << 10;

fn spread<T: Real>(rollouts: &Rollouts<'_>, source: &Source<'_>, fill: f64) -> Result<Vec<T>> {
    let rows = rollouts.rows();
    let fill = T::from_f64(fill);
    let mut out: Vec<T> = zeroed(rows.total())?;
    if fill != T::default() {
        out.fill(fill);
    }
    let chunks = rows.chunks(CHUNK_TOKENS);
    let parts = cut(&mut out, chunks.iter().map(|c| rows.start(c.end) - rows.start(c.start)));
    let jobs = chunks.iter().cloned().zip(parts).collect();
    rollouts.exec().map(jobs, |(chunk, part): (Range<usize>, &mut [T])| {
        let mut mask = Vec::new();
        let base = rows.start(chunk.start);
        let mut write = |span: Range<usize>, value: f64| {
            let target = &mut part[span.start - base..span.end - base];
            write_span(rollouts.mask(), span, T::from_f64(value), fill, target, &mut mask)
        };
        for row in chunk {
            match source {
                Source::Rows(own) => write(rows.range(row), own[row])?,
                Source::Turns(turns, own) => {
                    turns.of(row).try_for_each(|k| write(turns.spans[k].clone(), own[k]))?;
                }
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// The way back: the mean of token values over the trained tokens of each turn, in turn
/// order. A turn without trained tokens gives 0.
pub fn to_turns(rollouts: &Rollouts<'_>, tokens: &Floats<'_>) -> Result<Vec<f64>> {
    let spans = &rollouts.turns()?.spans;
    let means = rollouts.exec().ranges(spans.len(), TURNS_AT_A_TIME, |turns| {
        let (mut mask, mut values) = (Vec::new(), Vec::new());
        turns
            .map(|turn| {
                rollouts.mask().read(spans[turn].clone(), &mut mask)?;
                tokens.read(spans[turn].clone(), &mut values);
                let trained = values.iter().zip(&mask).filter(|&(_, &m)| m);
                let (sum, count) = trained.fold((0.0, 0.0), |(s, n), (x, _)| (s + x, n + 1.0));
                Ok(if count > 0.0 { sum / count } else { 0.0 })
            })
            .collect::<Result<Vec<f64>>>()
    })?;
    Ok(means.concat())
}

/// Puts values in turn order at their rows' places.
pub fn scatter<T: Copy + Default>(values: &[T], places: &[usize]) -> Vec<T> {
    let mut out = vec![T::default(); places.len()];
    for (&place, &value) in places.iter().zip(values) {
        out[place] = value;
    }
    out
}

fn write_span<T: Real>(
    mask: &Mask<'_>,
    span: Range<usize>,
    value: T,
    fill: T,
    target: &mut [T],
    buffer: &mut Vec<bool>,
) -> Result<()> {
    if let Some(trained) = mask.prefix(span.clone()) {
        target[..trained].fill(value);
        return Ok(());
    }
    mask.read(span, buffer)?;
    // Nothing is written after the last trained token: the padding holds `fill` already.
    let end = buffer.iter().rposition(|&m| m).map_or(0, |last| last + 1);
    for (t, &m) in target[..end].iter_mut().zip(&buffer[..end]) {
        *t = if m { value } else { fill };
    }
    Ok(())
}
