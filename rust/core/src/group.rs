//! Ids of any kind to dense groups, numbered by first appearance.
//!
//! Ids are hashed, and bytes are compared inside a bucket, so that two ids are
//! in one group only if they are equal, whatever an opponent writes into them.
//! May depend on `column`, `error` and `exec`.

use std::hash::{BuildHasher, Hash};
use std::ops::Range;

use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::column::Keys;
use crate::error::Result;
use crate::exec::{Exec, split};

/// Keys between two looks at whether to stop; they may be long.
const KEYS_AT_A_TIME: usize = 1 << 14;

/// A partition of `0..len` into dense groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    ids: Vec<u32>,
    starts: Vec<usize>,
    members: Vec<usize>,
}

impl Groups {
    /// Groups equal keys.
    pub fn from_keys(keys: &Keys<'_>, exec: &Exec<'_>) -> Result<Self> {
        fn found<K: Hash + Eq>(
            len: usize,
            key: impl Fn(usize) -> K,
            exec: &Exec<'_>,
        ) -> Result<Groups> {
            let mut numbers = Numbers::default();
            for items in split(len, KEYS_AT_A_TIME) {
                exec.check()?;
                numbers.give(items, &key);
            }
            Ok(numbers.groups())
        }
        match keys {
            Keys::Ints(v) => found(v.len(), |i| v[i], exec),
            Keys::Texts(v) => found(v.len(), |i| v[i].as_bytes(), exec),
            Keys::Bytes(v) => found(v.len(), |i| v[i], exec),
        }
    }

    /// Groups items whose key, a small one, is equal; composite keys are tuples.
    pub fn by<K: Hash + Eq>(len: usize, key: impl Fn(usize) -> K) -> Self {
        let mut numbers = Numbers::default();
        numbers.give(0..len, &key);
        numbers.groups()
    }

    /// Takes ids that are already dense numbers below `count`.
    pub fn from_dense(ids: Vec<u32>, count: usize) -> Self {
        let mut starts = vec![0; count + 1];
        for &id in &ids {
            starts[id as usize + 1] += 1;
        }
        for group in 0..count {
            starts[group + 1] += starts[group];
        }
        let mut next = starts.clone();
        let mut members = vec![0; ids.len()];
        for (item, &id) in ids.iter().enumerate() {
            members[next[id as usize]] = item;
            next[id as usize] += 1;
        }
        Self { ids, starts, members }
    }

    /// Everything in one group.
    pub fn one(len: usize) -> Self {
        Self::from_dense(vec![0; len], usize::from(len > 0))
    }

    /// How many groups.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The group of each item.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// A group's items, in their order of appearance.
    pub fn members(&self, group: usize) -> &[usize] {
        &self.members[self.starts[group]..self.starts[group + 1]]
    }

    /// Every group's items.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> + '_ {
        (0..self.count()).map(|group| self.members(group))
    }
}

/// Dense numbers for keys, by first appearance.
#[derive(Default)]
struct Numbers {
    /// Hash, first item and number of each distinct key.
    seen: HashTable<(u64, usize, u32)>,
    ids: Vec<u32>,
}

impl Numbers {
    fn give<K: Hash + Eq>(&mut self, items: Range<usize>, key: &impl Fn(usize) -> K) {
        let Self { seen, ids } = self;
        ids.reserve(items.len());
        for item in items {
            let own = key(item);
            let hash = Xxh3DefaultBuilder.hash_one(&own);
            let known = seen
                .find(hash, |&(other, first, _)| other == hash && key(first) == own)
                .map(|&(.., id)| id);
            let id = known.unwrap_or_else(|| {
                let id = seen.len() as u32;
                seen.insert_unique(hash, (hash, item, id), |&(other, ..)| other);
                id
            });
            ids.push(id);
        }
    }

    fn groups(self) -> Groups {
        Groups::from_dense(self.ids, self.seen.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_numbered_by_first_appearance() {
        let groups =
            Groups::from_keys(&Keys::Texts(vec!["b", "a", "b", "", "a"]), &Exec::default())
                .unwrap();
        assert_eq!(groups.ids(), [0, 1, 0, 2, 1]);
        assert_eq!(groups.iter().collect::<Vec<_>>(), [&[0, 2][..], &[1, 4], &[3]]);
    }

    #[test]
    fn composite_and_empty() {
        let (a, b) = ([1, 1, 2], ["x", "y", "x"]);
        assert_eq!(Groups::by(3, |i| (a[i], b[i])).count(), 3);
        assert_eq!(Groups::by(3, |i| b[i]).ids(), [0, 1, 0]);
        assert_eq!(
            Groups::from_keys(&Keys::Ints(vec![].into()), &Exec::default()).unwrap().count(),
            0
        );
        assert_eq!(Groups::one(0).count(), 0);
    }
}
