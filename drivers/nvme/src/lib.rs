//! A polling NVMe driver: no interrupts, one queue pair per core, nothing shared between them.
//!
//! The control core brings a [`Controller`] up, which finds out who it is and which namespaces it
//! has; each ring core then gets a [`QueuePair`] of its own, which is a
//! [`spindle_block::DiskQueue`]. Everything that waits (bring-up, admin commands, shutdown) is in
//! [`Controller`] and bounded in time; a queue pair never waits, allocates, locks or logs.
//!
//! The disk is not trusted: whatever it writes into completions and identify pages is checked,
//! counted and, where it makes no sense, ignored. Section numbers are those of the NVM Express
//! base specification, revision 1.4.
//!
//! | file | what |
//! | --- | --- |
//! | `registers` | controller registers and doorbells |
//! | `command`, `status`, `identify` | what goes over the wire |
//! | `admin` | the admin queue |
//! | `series` | admin commands that control does not wait for |
//! | `controller`, `lifecycle` | bring-up and its end; readiness and shutdown |
//! | `discovery`, `identity`, `namespace` | from identify pages to volumes |
//! | `queues` | making queue pairs |
//! | `block_controller` | all of that as a `spindle_block::BlockController` |
//! | `recovery`, `link` | aborts and resets, and what the cores have to do with them |
//! | `events`, `health` | what the controller tells unasked; the SMART log |
//! | `change` | namespaces that are replaced, formatted, gone or new |
//! | `standby` | a controller that stays enabled while one driver follows another |
//! | `revival` | a controller that was lost, or did not start, and comes up later |
//! | `host_memory` | memory that the controller asks us for |
//! | `prp` | cutting a command into what one NVMe command can describe |
//! | `namespace_table` | what queues know of each namespace: size of blocks, boundaries |
//! | `discard` | the same for a discard |
//! | `slots` | which command identifiers are in flight, and for whom |
//! | `queue` | the data path |
//!
//! # Example
//! A write and a read on the test kit's controller. Where the example runs the controller, hardware
//! works by itself.
//!
//! ```
//! use std::sync::Arc;
//!
//! use spindle_block::{Command, DiskOptions, DiskQueue, Op, Segment, Tag};
//! use spindle_hw::{DmaAlloc, PAGE_SIZE};
//! use spindle_nvme::Controller;
//! use spindle_testkit::mem::{FakeBus, FakeClock};
//! use spindle_testkit::nvme::{Config, FakeNvme};
//!
//! let bus = Arc::new(FakeBus::new());
//! let registers = FakeNvme::new(bus.clone(), Config::default());
//! let clock = FakeClock::new(1_000_000);
//!
//! // The control core brings the controller up and makes a queue pair for each ring core.
//! let options = DiskOptions::default();
//! let mut controller = Controller::start(registers.clone(), &clock, &*bus, options)?;
//! let volume = controller.volumes(0, 0).remove(0);
//! let mut queue = controller.create_queue(registers.clone())?;
//!
//! // The ring core submits, rings the doorbell once, and polls.
//! let memory = bus.alloc(1).expect("a page");
//! let segments = [Segment::new(memory.bus(), PAGE_SIZE as u32)];
//! for op in [Op::Write, Op::Read] {
//!     let command = Command {
//!         op,
//!         unit: volume.unit,
//!         block_shift: volume.block_shift,
//!         block: 8,
//!         blocks: 0,
//!         segments: &segments,
//!     };
//!     queue.submit(&command, Tag(1)).expect("it is empty");
//!     queue.commit();
//!     registers.run();
//!     let mut results = Vec::new();
//!     queue.poll(|tag, result| results.push((tag, result)));
//!     assert_eq!(results, [(Tag(1), Ok(()))]);
//! }
//! assert!(registers.violations().is_empty());
//! # Ok::<(), spindle_nvme::Error>(())
//! ```
//!
//! # Controllers as they are
//!
//! What real controllers do besides the specification, and what this driver does about it. The
//! first part follows Linux's quirks (`enum nvme_quirks`), the second what else is known from there
//! and from the field. Tests are in `tests/`, as file and name; the model that they run on has each
//! behaviour as a fault or as a lasting trait (`Quirk`).
//!
//! | Linux's quirk, or behaviour | here | test, or reason |
//! | --- | --- | --- |
//! | NOIOB | handled from 16 KiB on | `boundary`: `no_command_crosses_a_boundary_that_it_need_not` |
//! | `STRIPE_SIZE` | not handled | Intel's first controllers (8086:0953 and 0a53 to 0a55) give the stripe in a byte of their own; which they are is in PCI configuration space, which this driver does not see |
//! | `IDENTIFY_CNS` (no list of namespaces) | handled, if the command fails | `bring_up`: `a_controller_of_version_1_0_is_asked_namespace_by_namespace` |
//! | `DEALLOCATE_ZEROES`, `DISABLE_WRITE_ZEROES` | not needed | Write Zeroes is not used, and a discard promises no zeroes |
//! | `DELAY_BEFORE_CHK_RDY` (all ones in CSTS) | handled | `recovery`: `a_status_of_all_ones_after_a_change_is_waited_through` |
//! | `NO_APST`, `NO_DEEPEST_PS` | not needed | power states are left as they are: autonomous transitions are never switched on |
//! | `SIMPLE_SUSPEND`, `FORCE_NO_SIMPLE_SUSPEND` | not needed | a driver domain is not suspended with its disks |
//! | `QDEPTH_ONE` | not handled | CAP.MQES is all that a controller is asked; the only ones known are in handhelds |
//! | `MEDIUM_PRIO_SQ`, `SINGLE_VECTOR`, `BROKEN_MSI` | not needed | round robin without priorities, no interrupts |
//! | `128_BYTES_SQES`, `SHARED_TAGS`, `SKIP_CID_GEN` | not handled | Apple's controllers; those that ask for other entry sizes are refused: `bring_up`: `a_controller_that_cannot_work_says_so` |
//! | `IGNORE_DEV_SUBNQN` | not needed | a subsystem's name counts only for namespaces that say that they are shared, and that have no other identifier which differs |
//! | `NO_TEMP_THRESH_CHANGE`, `NO_SECONDARY_TEMP_THRESH` | not needed | no threshold is set |
//! | `NO_NS_DESC_LIST` | handled, if the command fails; not asked before version 1.3. A namespace that was known by its UUID is still known then, and looked at again | `events`: `a_uuid_that_cannot_be_read_again_is_still_known`, `one_whose_uuid_could_not_be_read_just_then_is_told_from_another_later` |
//! | `DMA_ADDRESS_BITS_48` | not needed | no host has memory above that, and an IOMMU maps below |
//! | `DMAPOOL_ALIGN_512` | handled from 256 KiB per command on | lists are aligned to their size, which is less where MDTS is small |
//! | `BOGUS_NID` (all disks with one identifier) | handled | such a name is ambiguous and refused, others work: `target::tests`, `a_namespace_behind_two_controllers_is_one_disk` |
//! | CAP.TO too short, CRTO | handled | `bring_up`: `a_controller_of_2_0_says_how_long_it_takes_to_be_ready` |
//! | slow admin commands | handled, a minute each | `bring_up`: `a_controller_whose_admin_commands_take_long_is_waited_for`; `recovery`: `control_waits_for_no_admin_command` |
//! | questions that cannot be answered just then | handled | `bring_up`: `a_question_that_cannot_be_answered_just_then_is_put_again`; `recovery`: `a_namespace_that_is_not_described_after_a_reset_stays_as_it_was` |
//! | a health log that never comes | handled | `recovery`: `a_health_log_that_never_comes_costs_nothing` |
//! | commands over which the controller fails, one after the other | handled: others that were in flight are tried with nothing else | `recovery`: `one_guest_s_commands_over_which_the_controller_fails_cost_no_other_command` |
//! | a command that is never answered | handled: it fails at the third reset | `recovery`: `a_command_that_is_never_answered_fails_alone` |
//! | a command over which the firmware fails | handled: the same | `recovery`: `a_command_that_makes_the_controller_fail_fails_alone` |
//! | statuses without Do Not Retry | handled: five more tries | `recovery`: `what_may_pass_is_tried_five_times_more_and_the_rest_fails_at_once` |
//! | Command Retry Delay | handled, ACRE is switched on | `recovery`: `the_controller_says_when_to_try_again` |
//! | zoned and key-value namespaces, a format in progress | refused with the reason | `bring_up`: `zoned_and_other_namespaces_are_refused_with_the_reason` |
//! | a format in progress of a namespace that is served | handled: it is removed until that ends | `events`: `a_namespace_that_is_being_formatted_is_removed_and_offered_anew` |
//! | a sanitize in progress | its status is tried again, not known otherwise | `recovery`: as for statuses |
//! | a controller that resets do not help | handled: the subsystem is reset (NSSR) where CAP says that it can be and CMIC that nothing else is behind it; what its write cache held may be lost by that, which is reported | `revival`: `the_subsystem_is_reset_in_the_end_if_no_other_uses_it` |
//! | a controller that resets itself | handled: as one that failed; with a write cache it is lost by that, and brought up once more | `revival`: `power_that_is_back_before_anything_was_noticed_is_noticed` |
//! | a controller that loses its power while no driver looks, between two lives of the kernel | handled, by [`Controller::start_again`]: by AQA, which it keeps over resets; it begins as lost | `bring_up`: `a_controller_that_was_without_power_between_two_drivers_is_left_as_it_is`; control's `losses` |
//! | a controller that stays enabled from one life of the kernel to the next, and is not what it was, or does not answer | handled, by [`Controller::adopt`] and [`Standby`]: it is reset | `standby`: `one_that_was_reset_or_has_failed_in_between_is_not_as_it_was_left`, `one_that_does_not_behave_is_reset_and_works_then`, `one_that_lies_is_given_nothing_of_what_it_did_before` |
//! | a controller that is lost and comes back | handled, by [`Controller::probe_again`] | `revival`: `a_disk_that_was_lost_works_again_on_the_queues_that_the_cores_have` |
//! | a controller that does not start, and does later | handled, by [`Controller::absent`]: it counts as lost until then; the cores' queues are made before, so that one that grants fewer stays lost, with the reason and what helps | `revival`: `one_that_does_not_start_is_served_once_it_does`; control's `changes`: `one_that_comes_late_with_fewer_queues_than_cores_is_refused_with_what_helps` |
//! | another disk in its place | handled: all namespaces are others | `revival`: `another_disk_in_the_place_of_a_lost_one_is_not_reached_by_those_who_had_that` |
//! | other limits after a reset | handled: the queues are given the new ones; what is in flight and beyond them fails, and nothing else | `revival`: `a_reset_to_smaller_limits_fails_what_is_beyond_them_and_nothing_else` |
//! | shorter queues after a reset | handled: it is lost, and brought up once more with such queues | `revival`: `one_that_comes_back_with_shorter_queues_is_given_no_more_than_they_hold` |
//! | fewer queues after a reset | handled, if the cores need no more of them; it stays lost otherwise | `revival`: `one_that_grants_fewer_queues_than_before_works_on_if_the_cores_need_no_more` |
//! | other limits when it comes back after it was lost | handled, but for a write cache where there was none, with which it stays lost | `revival`: `one_that_comes_back_with_smaller_limits_is_kept_within_them` |
//! | namespaces that come and go | handled | `revival`: `a_namespace_comes_and_goes_and_another_does_not_notice` |
//! | a namespace that is formatted with other blocks, or replaced | handled: closed for its users, offered anew | `revival`: `a_namespace_with_other_blocks_gets_nothing_of_what_was_meant_for_the_old_ones` |
//! | changes that no event reports | handled: found after a reset, and by [`Controller::rescan`] | `revival`: `a_controller_that_says_nothing_of_changes_is_looked_at_on_request` |
//! | asymmetric namespace access (ANA) | handled by statuses: inaccessible paths and those in transition are tried again as other statuses are, for 13 s in all, one that is lost for good fails at once. The log is not read: it says which path is the better one, and a target names its controller, so that there is no path to choose | `status`: `a_path_that_may_come_back_is_tried_again_and_one_that_is_lost_is_not`; `recovery`: `what_may_pass_is_tried_five_times_more_and_the_rest_fails_at_once` |
//! | one namespace behind two controllers (CMIC, NMIC) | handled by serial number or subsystem, and identifiers | `target::tests`: `a_namespace_behind_two_controllers_is_one_disk`, `a_shared_namespace_is_known_by_its_subsystem` |
//! | a twin, that is the same namespace behind another controller, of one that is lost and has not stopped | refused until that one is disabled, back, or pulled out: it may carry out late what it was given | control's `changes`: `a_twin_of_one_that_did_not_stop_is_refused` |
//! | a port of a dual-port disk that fails while the disk keeps its power | not handled: a controller that reads as all ones, and whose bus mastering is off, counts as stopped, as with Linux' multipath. A reset of the link stops it; what it had fetched before that it may write for moments, and the time that a guest takes to go to the other port is longer | no model of a disk tells the two apart by its registers |
//! | a core that stands still | handled: after 10 s of a reset its queue alone is given up. A namespace that was removed is offered anew only once every core with a queue has looked, also one without rings: new guests may be given to that core at any time, and would be no better off | `recovery`: `a_queue_that_is_held_and_never_ticks_holds_up_a_reset_for_seconds_only`; control's `changes`: `a_namespace_is_not_offered_anew_before_every_core_has_done_what_it_was_ordered` |
//! | host memory buffer | handled | `host_memory`: `a_controller_gets_what_it_asks_for_and_gives_it_back_before_it_is_shut_down` |
//!
//! Write Zeroes is not used: no request of blkif asks for zeroes, and a discard promises none.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod block_controller;
mod change;
mod command;
mod controller;
mod discard;
mod discovery;
mod error;
mod events;
mod health;
mod host_memory;
mod identify;
mod identity;
mod lifecycle;
mod link;
mod namespace;
mod namespace_table;
mod prp;
mod queue;
mod queues;
mod recovery;
mod registers;
mod revival;
mod series;
mod slots;
mod standby;
mod status;

pub use block_controller::NvmeDisk;
pub use change::{Change, Removal};
pub use controller::Controller;
pub use error::Error;
pub use health::HealthLog;
pub use identity::Identity;
pub use lifecycle::stop;
pub use namespace::{Namespace, NamespaceError};
pub use queue::QueuePair;
pub use recovery::{Attention, Back, Lost, Repairs};
pub use registers::register_bytes;
pub use standby::Standby;
pub use status::Status;

/// The most bytes one NVMe command moves, whatever the controller would take: it bounds the PRP
/// list that is kept ready for every command identifier.
pub const MAX_TRANSFER: u32 = 512 << 10;
