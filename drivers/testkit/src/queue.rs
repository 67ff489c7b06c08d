//! Commands for a disk's queue, and what comes of them.

use spindle_block::{
    Budget, Command, DiskQueue, IoResult, Op, Part, Segment, SubmitError, Tag, Unit,
};
use spindle_hw::{PAGE_SIZE, SharedPages};

/// Polls until a command counts as never answered.
const POLLS: usize = 10_000;

/// A command to the first unit of a disk with 512-byte blocks.
#[must_use]
pub fn command(op: Op, block: u64, segments: &[Segment]) -> Command<'_> {
    Command {
        op,
        unit: Unit(0),
        block_shift: 9,
        block,
        blocks: 0,
        segments,
    }
}

/// The same for [`Op::Discard`] or [`Op::SecureDiscard`].
#[must_use]
pub fn discard(op: Op, block: u64, blocks: u64) -> Command<'static> {
    Command {
        blocks,
        ..command(op, block, &[])
    }
}

/// The pages as segments of a page each.
#[must_use]
pub fn pages(memory: &SharedPages) -> Vec<Segment> {
    let page = |at| Segment::new(memory.bus() + at as u64, PAGE_SIZE as u32);
    (0..memory.len()).step_by(PAGE_SIZE).map(page).collect()
}

/// What has finished by now, by tag.
pub fn drain(queue: &mut impl DiskQueue) -> Vec<(u32, IoResult)> {
    let mut done = Vec::new();
    queue.poll(|tag, result| done.push((tag.0, result)));
    done
}

/// What a lost disk's queue gives back, by tag.
pub fn fail_all(queue: &mut impl DiskQueue) -> Vec<(u32, IoResult)> {
    let mut done = Vec::new();
    queue.fail_all(|tag, result| done.push((tag.0, result)));
    done
}

/// Submits, commits and expects the one answer.
///
/// # Errors
/// If the queue does not take the command.
///
/// # Panics
/// If there is no answer, or one to something else.
pub fn complete(
    queue: &mut impl DiskQueue,
    command: &Command<'_>,
) -> Result<IoResult, SubmitError> {
    queue.submit(command, Tag(7))?;
    queue.commit();
    let answers = (0..POLLS).map(|_| drain(queue));
    let done = answers.into_iter().find(|done| !done.is_empty());
    match done.expect("an answer")[..] {
        [(7, result)] => Ok(result),
        ref others => panic!("one answer was due: {others:?}"),
    }
}

/// The same in parts of at most `budget`, one after the other, up to the first that fails.
///
/// # Errors
/// If the queue does not take the command.
///
/// # Panics
/// If a part is not answered, takes nothing, or is more than the budget allows.
pub fn complete_in_parts(
    queue: &mut impl DiskQueue,
    command: &Command<'_>,
    budget: Budget,
) -> Result<IoResult, SubmitError> {
    let requests = queue.requests(command)?;
    let (mut from, mut taken) = (0, 0);
    loop {
        let Part { blocks, commands } = queue.submit_part(command, from, budget, Tag(7))?;
        assert!((1..=budget.commands).contains(&commands), "{commands}");
        queue.commit();
        let answers = (0..POLLS).map(|_| drain(queue));
        let done = answers.into_iter().find(|done| !done.is_empty());
        let [(7, result)] = done.expect("an answer")[..] else {
            panic!("one answer was due");
        };
        from += blocks;
        taken += commands;
        if result.is_err() || from >= command.total_blocks() {
            assert!(
                result.is_err() || taken >= requests,
                "{taken} of {requests}"
            );
            return Ok(result);
        }
        assert!(blocks > 0, "nothing was taken");
    }
}
