//! Free space of a group: which extents a new or larger volume gets.

use alloc::vec::Vec;

use crate::Group;
use crate::logical::Span;
use crate::parse::Ground;

/// A run of extents of a physical volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Which one of the group's.
    pub(crate) pv: usize,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// All that is free and may be given out, in the order of the physical volumes; `None` if it is not known
/// which extents are used.
pub(crate) fn free(group: &Group, ground: &Ground<'_>) -> Option<Vec<Extents>> {
    let used: &[Span] = ground.used.as_ref()?;
    let mut free = Vec::new();
    for (pv, member) in group.physical.iter().enumerate() {
        if !ground.allocatable.get(pv).copied().unwrap_or(false) {
            continue;
        }
        let from = used.partition_point(|span| span.pv < pv);
        let own = used[from..].iter().take_while(|span| span.pv == pv);
        let mut first = 0;
        for (begin, end) in own
            .map(|span| (span.first, span.end))
            .chain([(member.extents, member.extents)])
        {
            let count = begin.saturating_sub(first);
            if count > 0 {
                free.push(Extents { pv, first, count });
            }
            first = first.max(end);
        }
    }
    Some(free)
}

/// Chooses `count` of the free extents: those behind `last` if all are there; or else the first run that
/// has all; or else what is behind `last`, and one run after the other. `None` if there are not so many.
pub(crate) fn choose(
    mut free: Vec<Extents>,
    count: u64,
    last: Option<Extents>,
) -> Option<Vec<Extents>> {
    let behind = last.and_then(|last| {
        let goes_on = |run: &Extents| run.pv == last.pv && run.first == last.first + last.count;
        free.iter().position(goes_on)
    });
    if let Some(at) = behind {
        let run = free.remove(at);
        free.insert(0, run);
    }
    let has_all = |run: &&Extents| run.count >= count;
    let whole = free.first().filter(|run| behind.is_some() && has_all(run));
    if let Some(run) = whole.or_else(|| free.iter().find(has_all)) {
        return Some(Vec::from([Extents { count, ..*run }]));
    }
    let (mut left, mut chosen) = (count, Vec::new());
    for run in free {
        let count = run.count.min(left);
        chosen.push(Extents { count, ..run });
        left -= count;
        if left == 0 {
            return Some(chosen);
        }
    }
    None
}
