//! As much at once as the machine has cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Result;

/// Does this with each item, until `until`, and returns what came out, in any order. The work gets the
/// number of the worker too, for what no two may share.
///
/// # Errors
/// The first error of each worker ends it; one of them is returned.
///
/// # Panics
/// The work does.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    until: Option<Instant>,
    work: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let worker = |number: usize| -> Result<Vec<R>> {
        let mut done = Vec::new();
        while until.is_none_or(|until| Instant::now() < until)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            done.push(work(number, item)?);
        }
        Ok(done)
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let worker = &worker;
        let handles: Vec<_> = (0..workers)
            .map(|number| scope.spawn(move || worker(number)))
            .collect();
        let mut all = Vec::new();
        for handle in handles {
            all.extend(handle.join().expect("a worker does not panic")?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_an_error_is_returned() -> Result<()> {
        let items: Vec<u32> = (0..100).collect();
        let mut found = each(&items, None, |_, item| Ok(item * 2))?;
        found.sort_unstable();
        let doubled: Vec<u32> = items.iter().map(|item| item * 2).collect();
        assert_eq!(found, doubled);
        assert!(each(&items, Some(Instant::now()), |_, _| Ok(()))?.is_empty());
        let failed = each(&items, None, |_, item| match item {
            50 => bail!("no"),
            _ => Ok(()),
        });
        assert!(failed.is_err());
        Ok(())
    }
}
