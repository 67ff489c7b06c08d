//! What we publish in a device's backend directory (`public/io/blkif.h`, "Backend XenBus Nodes").
//!
//! Every key is always written, 0 where there is nothing, since some frontends refuse a missing
//! one; and all of them already with `InitWait`, since some read them before `Connected`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::view::BackendView;
use super::{DiskFacts, Offer};

const VDISK_CDROM: u32 = 1;
const VDISK_REMOVABLE: u32 = 2;
const VDISK_READONLY: u32 = 4;

/// Keys and values, without `state`.
pub(super) fn features(
    offer: &Offer,
    facts: &DiskFacts,
    back: &BackendView,
) -> Vec<(&'static str, String)> {
    let offer = offer.of(facts);
    let flag = |on: bool| String::from(if on { "1" } else { "0" });
    let discard = facts.discard.filter(|_| back.discard);
    let number = |value: Option<u32>| value.unwrap_or(0).to_string();
    let info = if back.cdrom { VDISK_CDROM } else { 0 }
        | if back.removable { VDISK_REMOVABLE } else { 0 }
        | if facts.read_only { VDISK_READONLY } else { 0 };
    Vec::from([
        (
            "feature-max-indirect-segments",
            offer.max_indirect_segments.to_string(),
        ),
        ("multi-queue-max-queues", offer.max_queues.to_string()),
        ("max-ring-page-order", offer.max_ring_page_order.to_string()),
        ("feature-persistent", flag(offer.persistent)),
        ("feature-flush-cache", flag(facts.flush)),
        ("feature-barrier", flag(facts.barrier)),
        ("feature-discard", flag(discard.is_some())),
        (
            "discard-granularity",
            number(discard.map(|d| d.granularity)),
        ),
        ("discard-alignment", number(discard.map(|d| d.alignment))),
        ("discard-secure", flag(discard.is_some_and(|d| d.secure))),
        ("sectors", facts.sectors.to_string()),
        ("info", info.to_string()),
        ("sector-size", facts.sector_size.to_string()),
        (
            "physical-sector-size",
            facts.physical_sector_size.to_string(),
        ),
        ("hotplug-status", String::from("connected")),
    ])
}
