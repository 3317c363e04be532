//! Credit to tokens: values of trajectories or turns written over their tokens.
//!
//! The last step of the way. May depend on `rollouts`, `credit` and below.

use std::borrow::Cow;
use std::ops::Range;

use crate::column::{Floats, Mask};
use crate::credit::Values;
use crate::error::Result;
use crate::exec::cut;
use crate::rollouts::{CHUNK_TOKENS, Rollouts};
use crate::tokens::Real;

/// Writes `values` over their trained tokens and `fill` over all others, as one
/// flat array in the layout of the rollouts' rows. Token values pass through.
pub fn to_tokens(
    rollouts: &Rollouts<'_>,
    values: &Values,
    fill: f64,
    double: bool,
) -> Result<Floats<'static>> {
    match values {
        Values::Tokens(values) => Ok(match (values, double) {
            (Floats::F32(v), true) => Floats::F64(v.iter().map(|&x| f64::from(x)).collect()),
            (Floats::F64(v), false) => Floats::F32(v.iter().map(|&x| x as f32).collect()),
            (same, _) => same.clone(),
        }),
        _ if double => Ok(Floats::F64(Cow::Owned(spread(rollouts, values, fill)?))),
        _ => Ok(Floats::F32(Cow::Owned(spread(rollouts, values, fill)?))),
    }
}

fn spread<T: Real>(rollouts: &Rollouts<'_>, values: &Values, fill: f64) -> Result<Vec<T>> {
    let rows = rollouts.rows();
    let fill = T::from_f64(fill);
    let by_row = by_row(rollouts, values)?;
    let turns = if by_row.is_none() { Some(rollouts.turns()?) } else { None };
    let (Values::Trajectories(own) | Values::Turns(own)) = values else { return Ok(Vec::new()) };

    let mut out = vec![fill; rows.total()];
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
            match (&by_row, turns) {
                (Some(by_row), _) => write(rows.range(row), by_row[row])?,
                (None, Some(turns)) => {
                    turns.of(row).try_for_each(|k| write(turns.spans[k].clone(), own[k]))?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// One value a row where a row has only one; `None` where turns share a row.
fn by_row<'v>(rollouts: &Rollouts<'_>, values: &'v Values) -> Result<Option<Cow<'v, [f64]>>> {
    Ok(match (values, rollouts.turn_places()) {
        (Values::Trajectories(v), None) => Some(Cow::Borrowed(v)),
        (Values::Trajectories(v), Some(places)) => {
            let of_turn: Vec<f64> = rollouts.turns()?.trajectories().map(|t| v[t]).collect();
            Some(Cow::Owned(scatter(&of_turn, places)))
        }
        (Values::Turns(v), Some(places)) => Some(Cow::Owned(scatter(v, places))),
        _ => None,
    })
}

/// Puts values in turn order at their rows' places.
pub fn scatter(values: &[f64], places: &[usize]) -> Vec<f64> {
    let mut out = vec![0.0; places.len()];
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
    mask.read(span, buffer)?;
    // Nothing is written after the last trained token, so that padding which
    // the allocator handed out as untouched zero pages stays untouched.
    let end = buffer.iter().rposition(|&m| m).map_or(0, |last| last + 1);
    for (t, &m) in target[..end].iter_mut().zip(&buffer[..end]) {
        *t = if m { value } else { fill };
    }
    Ok(())
}
