//! The frontend's rings: from its keys in xenstore to a validated [`RingLayout`].
//!
//! Keys are those of `public/io/blkif.h`. A frontend that offers one queue puts them into its own
//! directory, one with more into `queue-N/`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Offer, Refusal};
use crate::Errno;
use crate::grant::GrantRef;
use crate::store::{Reply, parse_decimal};

/// How requests lie in a ring: the layout that a frontend names in its `protocol` node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Abi {
    /// `x86_64-abi`, which is this machine's own.
    #[default]
    Native,
    /// `x86_32-abi`, where 64-bit fields are aligned to 4 bytes.
    X86_32,
}

impl Abi {
    /// Bytes from one ring slot to the next: the size of the larger of request and response.
    #[inline]
    #[must_use]
    pub const fn slot_bytes(self) -> usize {
        match self {
            Self::Native => 112,
            Self::X86_32 => 108,
        }
    }
}

/// One ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueParams {
    /// Its pages, in order: 1, 2, 4, 8 or 16.
    pub refs: Vec<GrantRef>,
    /// The frontend's unbound port.
    pub event_channel: u32,
}

/// All rings of a frontend, within what we offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// At least one.
    pub queues: Vec<QueueParams>,
    /// How requests lie in them.
    pub abi: Abi,
    /// Whether the frontend keeps its grants from request to request.
    pub persistent: bool,
    /// Whether the frontend counts in blocks of the disk's `sector-size` where others count in
    /// sectors of 512 bytes.
    pub large_sectors: bool,
}

/// The keys that say which others to read.
pub(super) const FIRST_KEYS: [&str; 5] = [
    "protocol",
    "feature-persistent",
    "multi-queue-num-queues",
    "ring-page-order",
    "feature-large-sector-size",
];

/// What [`FIRST_KEYS`] said.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    abi: Abi,
    persistent: bool,
    large_sectors: bool,
    queues: u32,
    order: u32,
}

impl Plan {
    /// From the replies to reading [`FIRST_KEYS`].
    pub(super) fn new(offer: &Offer, replies: &[Reply]) -> Result<Self, Refusal> {
        let mut replies = FIRST_KEYS.iter().zip(replies);
        let mut next = || {
            replies
                .next()
                .and_then(|(key, reply)| Some((*key, optional(reply)?)))
        };
        let abi = match next() {
            None | Some((_, b"x86_64-abi")) => Abi::Native,
            Some((_, b"x86_32-abi")) => Abi::X86_32,
            Some((key, value)) => return Err(strange(key, value)),
        };
        let mut number = |absent| match next() {
            None => Ok(absent),
            Some((key, value)) => parse_decimal(value).ok_or_else(|| strange(key, value)),
        };
        let persistent = number(0)? != 0;
        let queues = number(1)?;
        let order = number(0)?;
        let large_sectors = number(0)? != 0;
        if queues == 0 || queues > offer.max_queues {
            let max = offer.max_queues;
            let text = format!("frontend asks for {queues} queues, 1 to {max} are offered");
            return Err(Refusal::new(Errno::EINVAL, text));
        }
        if order > offer.max_ring_page_order {
            let max = offer.max_ring_page_order;
            let text =
                format!("frontend asks for ring-page-order {order}, at most {max} is offered");
            return Err(Refusal::new(Errno::EINVAL, text));
        }
        Ok(Self {
            abi,
            persistent,
            large_sectors,
            queues,
            order,
        })
    }

    /// The keys to read next, below the frontend's directory.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for queue in 0..self.queues {
            let directory = match self.queues {
                1 => String::new(),
                _ => format!("queue-{queue}/"),
            };
            keys.push(format!("{directory}event-channel"));
            if self.order == 0 {
                keys.push(format!("{directory}ring-ref"));
            }
            keys.extend((0..1u32 << self.order).map(|i| format!("{directory}ring-ref{i}")));
        }
        keys
    }

    /// From the replies to reading [`Plan::keys`].
    pub(super) fn layout(&self, replies: &[Reply]) -> Result<RingLayout, Refusal> {
        let (mut refs_seen, mut ports_seen) = (Vec::new(), Vec::new());
        let mut queues = Vec::new();
        let keys = self.keys();
        let per_queue = keys.len() / self.queues as usize;
        let values: Vec<_> = keys.iter().zip(replies).collect();
        for queue in values.chunks_exact(per_queue) {
            let Some((port, refs)) = queue.split_first() else {
                break;
            };
            let port = number(port)?;
            if port == 0 || !is_new(&mut ports_seen, port) {
                let text = format!("frontend's event-channel {port} cannot be used");
                return Err(Refusal::new(Errno::EINVAL, text));
            }
            // Of `ring-ref` and `ring-ref0`, either will do for a ring of one page.
            let refs = match refs {
                [plain, _] if self.order == 0 && plain.1.is_ok() => &refs[..1],
                [plain, numbered] if self.order == 0 && numbered.1.is_err() => {
                    return Err(missing(plain.0));
                }
                [_, _] if self.order == 0 => &refs[1..],
                refs => refs,
            };
            let refs: Vec<u32> = refs.iter().map(number).collect::<Result<_, _>>()?;
            if let Some(twice) = refs.iter().find(|gref| !is_new(&mut refs_seen, **gref)) {
                let text = format!("frontend's ring-ref {twice} is there twice");
                return Err(Refusal::new(Errno::EINVAL, text));
            }
            let refs = refs.into_iter().map(GrantRef).collect();
            queues.push(QueueParams {
                refs,
                event_channel: port,
            });
        }
        if queues.len() != self.queues as usize {
            return Err(missing("queues"));
        }
        Ok(RingLayout {
            queues,
            abi: self.abi,
            persistent: self.persistent,
            large_sectors: self.large_sectors,
        })
    }
}

/// Puts `number` among those seen, which are sorted; false if it is there already.
fn is_new(seen: &mut Vec<u32>, number: u32) -> bool {
    let place = seen.binary_search(&number);
    if let Err(at) = place {
        seen.insert(at, number);
    }
    place.is_err()
}

fn optional(reply: &Reply) -> Option<&[u8]> {
    reply.as_deref().ok()
}

fn missing(key: &str) -> Refusal {
    Refusal::new(Errno::EINVAL, format!("frontend's {key} is missing"))
}

/// A value quoted so that nothing a guest writes can harm a log or a terminal.
pub(super) fn quoted(value: &[u8]) -> String {
    let shown = value.get(..32).unwrap_or(value);
    let more = if shown.len() < value.len() { "..." } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

fn strange(key: &str, value: &[u8]) -> Refusal {
    Refusal::new(
        Errno::EINVAL,
        format!("frontend's {key} is {}", quoted(value)),
    )
}

fn number((key, reply): &(&String, &Reply)) -> Result<u32, Refusal> {
    let value = optional(reply).ok_or_else(|| missing(key))?;
    parse_decimal(value).ok_or_else(|| strange(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    const OFFER: Offer = Offer {
        max_queues: 4,
        max_ring_page_order: 2,
        max_indirect_segments: 0,
        persistent: true,
    };

    fn reply(value: &str) -> Reply {
        match value {
            "-" => Err(Errno::ENOENT),
            value => Ok(value.into()),
        }
    }

    /// The layout for the first keys and a function that answers the others.
    fn parse(first: [&str; 4], rest: impl Fn(&str) -> Reply) -> Result<RingLayout, Refusal> {
        let first = first.into_iter().chain(["-"]).map(reply);
        let plan = Plan::new(&OFFER, &first.collect::<Vec<_>>())?;
        let replies: Vec<Reply> = plan.keys().iter().map(|key| rest(key)).collect();
        plan.layout(&replies)
    }

    fn linux(key: &str) -> Reply {
        match key {
            "ring-ref" => reply("8"),
            "event-channel" => reply("13"),
            _ => reply("-"),
        }
    }

    #[test]
    fn one_ring_of_one_page_by_either_name() {
        let ring = QueueParams {
            refs: vec![GrantRef(8)],
            event_channel: 13,
        };
        let expected = RingLayout {
            queues: vec![ring],
            abi: Abi::Native,
            persistent: true,
            large_sectors: false,
        };
        assert_eq!(
            parse(["x86_64-abi", "1", "-", "-"], linux),
            Ok(expected.clone())
        );
        assert_eq!(parse(["-", "1", "1", "0"], linux), Ok(expected.clone()));
        let numbered = |key: &str| match key {
            "ring-ref0" => reply("8"),
            "ring-ref" => reply("-"),
            key => linux(key),
        };
        assert_eq!(parse(["-", "1", "-", "0"], numbered), Ok(expected));
    }

    #[test]
    fn many_rings_of_many_pages() {
        let layout = parse(["x86_32-abi", "-", "3", "1"], |key| {
            let (queue, leaf) = key.split_once('/').unwrap();
            let queue: u32 = queue.strip_prefix("queue-").unwrap().parse().unwrap();
            match leaf.strip_prefix("ring-ref") {
                Some(page) => reply(&(100 * queue + page.parse::<u32>().unwrap()).to_string()),
                None => reply(&(queue + 1).to_string()),
            }
        });
        let layout = layout.unwrap();
        assert_eq!(layout.abi, Abi::X86_32);
        assert!(!layout.persistent);
        let refs = layout.queues.iter().map(|queue| queue.refs.clone());
        let expected = [[0, 1], [100, 101], [200, 201]].map(|refs| refs.map(GrantRef).to_vec());
        assert_eq!(refs.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn rubbish_is_refused_with_the_reason() {
        for (first, says) in [
            (["arm-abi", "-", "-", "-"], "protocol is \"arm-abi\""),
            (["-", "-", "0", "-"], "0 queues, 1 to 4 are offered"),
            (["-", "-", "5", "-"], "5 queues"),
            (["-", "-", "-", "3"], "ring-page-order 3, at most 2"),
            (["-", "-", "-", "99999999999"], "ring-page-order is"),
            (["-", "-", "2", "-"], "queue-0/event-channel is missing"),
            (["-", "-", "-", "1"], "ring-ref0 is missing"),
        ] {
            let refusal = parse(first, linux).unwrap_err();
            assert!(refusal.text.contains(says), "{refusal}");
        }
        for (key, value, says) in [
            ("ring-ref", "99999999999", "ring-ref is \"99999999999\""),
            ("ring-ref", "-", "ring-ref is missing"),
            ("event-channel", "", "event-channel is \"\""),
            ("event-channel", "0", "event-channel 0"),
            ("event-channel", "-", "event-channel is missing"),
        ] {
            let answer = |at: &str| if at == key { reply(value) } else { linux(at) };
            let refusal = parse(["-"; 4], answer).unwrap_err();
            assert!(refusal.text.contains(says), "{refusal}");
        }
        let same = |_: &str| reply("7");
        assert!(
            parse(["-", "-", "-", "1"], same)
                .unwrap_err()
                .text
                .contains("twice")
        );
        assert!(
            parse(["-", "-", "2", "-"], same)
                .unwrap_err()
                .text
                .contains("cannot be used")
        );
        assert_eq!(quoted(&[0xff; 4096]).len(), 32 * 4 + 2 + 3);
    }

    proptest! {
        #[test]
        fn a_layout_is_always_within_the_offer(
            first in prop::array::uniform5(prop_oneof![Just(None), "[0-9]{0,3}".prop_map(Some), ".*".prop_map(Some)]),
            rest in prop::collection::vec(prop_oneof![Just(None), "[0-9]{1,4}".prop_map(Some)], 0..80),
        ) {
            let reply = |value: &Option<String>| {
                value.as_ref().map(|text| text.clone().into_bytes()).ok_or(Errno::ENOENT)
            };
            let first: Vec<Reply> = first.iter().map(reply).collect();
            let rest: Vec<Reply> = rest.iter().map(reply).collect();
            if let Ok(layout) = Plan::new(&OFFER, &first).and_then(|plan| plan.layout(&rest)) {
                prop_assert!((1..=4).contains(&layout.queues.len()));
                for queue in &layout.queues {
                    prop_assert!([1, 2, 4].contains(&queue.refs.len()));
                    prop_assert!(queue.event_channel != 0);
                }
            }
        }
    }
}
