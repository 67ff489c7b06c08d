//! One core's queue on a disk, whatever type the disk is.

use spindle_block::{Budget, Command, DiskQueue, IoResult, Part, SubmitError, Tag};
use spindle_hw::{IdentityMap, Mmio};

use crate::disk_types;

/// Makes [`Queue`] of the list of disk types. Every call of a queue is dispatched by a `match`,
/// so that the compiler sees, and may inline, what it calls.
macro_rules! queue {
    ($($(#[$doc:meta])* $kind:ident($queue:ty), $probe:expr;)*) => {
        /// One core's queue on a disk.
        #[derive(Debug, Default)]
        pub enum Queue {
            $($(#[$doc])* $kind($queue),)*
            /// The disk had no queue left for this core: no ring on that disk is placed here.
            #[default]
            None,
        }

        $(
            impl From<$queue> for Queue {
                fn from(queue: $queue) -> Self {
                    Self::$kind(queue)
                }
            }

            /// Gives a queue of another type back.
            impl TryFrom<Queue> for $queue {
                type Error = Queue;

                fn try_from(queue: Queue) -> Result<Self, Queue> {
                    match queue {
                        Queue::$kind(queue) => Ok(queue),
                        other => Err(other),
                    }
                }
            }
        )*

        impl Queue {
            /// Submits to any disk, by a call.
            #[inline(never)]
            fn submit_any(&mut self, command: Command<'_>, tag: Tag) -> Result<(), SubmitError> {
                match self {
                    $(Self::$kind(queue) => queue.submit(&command, tag),)*
                    Self::None => Err(SubmitError::Gone),
                }
            }
        }

        impl DiskQueue for Queue {
            /// Without a call if it is an NVMe disk, whose own way is short. The others get a copy
            /// of the command: one that a call may see lies in memory, for whichever disk it is.
            #[inline(always)]
            fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
                match self {
                    Self::Nvme(queue) => queue.submit(command, tag),
                    other => other.submit_any(*command, tag),
                }
            }

            #[inline(never)]
            fn submit_part(
                &mut self,
                command: &Command<'_>,
                from: u64,
                budget: Budget,
                tag: Tag,
            ) -> Result<Part, SubmitError> {
                match self {
                    $(Self::$kind(queue) => queue.submit_part(command, from, budget, tag),)*
                    Self::None => Err(SubmitError::Gone),
                }
            }

            #[inline(never)]
            fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
                match self {
                    $(Self::$kind(queue) => queue.requests(command),)*
                    Self::None => Err(SubmitError::Gone),
                }
            }

            fn depth(&self) -> usize {
                match self {
                    $(Self::$kind(queue) => queue.depth(),)*
                    Self::None => 0,
                }
            }

            #[inline(always)]
            fn commit(&mut self) {
                // Told from all others by one look.
                if let Self::Nvme(queue) = self {
                    return queue.commit();
                }
                match self {
                    $(Self::$kind(queue) => queue.commit(),)*
                    Self::None => {}
                }
            }

            /// As for [`DiskQueue::submit`].
            #[inline(always)]
            fn poll_successes(&mut self, done: impl FnMut(Tag)) -> usize {
                match self {
                    Self::Nvme(queue) => queue.poll_successes(done),
                    _ => 0,
                }
            }

            #[inline]
            fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
                if let Self::Nvme(queue) = self {
                    return queue.poll(done);
                }
                match self {
                    $(Self::$kind(queue) => queue.poll(done),)*
                    Self::None => 0,
                }
            }

            #[inline]
            fn in_flight(&self) -> usize {
                match self {
                    $(Self::$kind(queue) => queue.in_flight(),)*
                    Self::None => 0,
                }
            }

            #[inline]
            fn is_stirred(&self) -> bool {
                match self {
                    $(Self::$kind(queue) => queue.is_stirred(),)*
                    Self::None => false,
                }
            }

            fn is_working(&self) -> bool {
                match self {
                    $(Self::$kind(queue) => queue.is_working(),)*
                    Self::None => false,
                }
            }

            #[inline]
            fn tick(&mut self, now_ns: u64) {
                match self {
                    $(Self::$kind(queue) => queue.tick(now_ns),)*
                    Self::None => {}
                }
            }

            fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
                match self {
                    $(Self::$kind(queue) => queue.fail_all(done),)*
                    Self::None => {}
                }
            }
        }
    };
}

disk_types!(queue);
