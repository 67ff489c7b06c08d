//! The image of a kernel that may follow in a running domain: what it says of itself, whether it can
//! take the place of the one that runs, and how it is handed over.
//!
//! An image begins with its *head*. It is handed over as it is to lie in memory, without what is zero at
//! its start, in pages granted by dom0. Another page, the *offer*, says how long it is, its sum, and which
//! grants it is in. Everything is checked before anything is changed.

pub mod elf;
mod note;

use core::fmt;

use spindle_hw::{PAGE_SIZE, SharedPages};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fnv;
use crate::layout;
pub use note::{UPDATE_VERSION_MAX, UpdateNote, UpdateOutcome};

/// Bytes of a head.
pub const HEAD_LEN: usize = 256;
/// "SpindleI" in ASCII.
pub const HEAD_MAGIC: u64 = u64::from_le_bytes(*b"SpindleI");
/// Version of the head.
pub const HEAD_VERSION: u32 = 1;
/// "SpindleO" in ASCII.
const OFFER_MAGIC: U64 = U64::from_bytes(*b"SpindleO");
/// Grants that an offer has room for.
pub const OFFER_MAX: usize = (PAGE_SIZE - 32) / size_of::<u32>();

/// What an image says of itself, in its first bytes. The kernel's own is in kernel/src/restart/head.S.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HeadRecord {
    magic: U64,
    version: U32,
    /// Version of the layout of kept memory that it writes, and the oldest that it reads.
    layout: U32,
    reads: U32,
    reserved: U32,
    /// Where it lies, where it is entered, where it is zero from on, where it ends, and the end of the
    /// place that all images have.
    start: U64,
    entry: U64,
    bss: U64,
    end: U64,
    place_end: U64,
    /// Its version in words, with zeros behind.
    name: [u8; 128],
    rest: [u8; 64],
}
const _: () = assert!(size_of::<HeadRecord>() == HEAD_LEN);
const _: () = assert!(core::mem::offset_of!(HeadRecord, name) == 64);

/// An image, as its head has it. Addresses are physical, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHead(HeadRecord);

/// Why an image cannot take the place of the one that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has no head.
    #[error("it is not an image of Spindle that can be updated to")]
    NoHead,
    /// Its head is of another version.
    #[error("its head has version {0}, and {HEAD_VERSION} is known")]
    HeadVersion(u32),
    /// Its parts are not in order.
    #[error("its head makes no sense")]
    Order,
    /// It lies elsewhere.
    #[error("it lies at {0:#x}, and what runs at {1:#x}: the domain must be restarted")]
    Place(u64, u64),
    /// It is larger than the place that its copy would have.
    #[error("it has {0} bytes, and there is room for {1}")]
    TooLarge(u64, u64),
    /// Kept memory of one of the two means nothing to the other.
    #[error(
        "it keeps what a death must not lose in layout {0}, what runs in layout {1}: the domain must be restarted"
    )]
    Layout(u32, u32),
    /// It is not whole.
    #[error("it has {0} bytes, and its head says {1}")]
    Length(u64, u64),
    /// It was changed on the way.
    #[error("its checksum is wrong")]
    Checksum,
    /// Not an offer of an image.
    #[error("what was offered is not an image")]
    NoOffer,
}

impl ImageHead {
    /// The head of the image whose first bytes these are.
    ///
    /// # Errors
    /// [`Unfit`], if it has none, or one that makes no sense.
    pub fn read(bytes: &[u8]) -> Result<Self, Unfit> {
        let (head, _) = HeadRecord::read_from_prefix(bytes).map_err(|_| Unfit::NoHead)?;
        if head.magic != HEAD_MAGIC {
            return Err(Unfit::NoHead);
        }
        if head.version != HEAD_VERSION {
            return Err(Unfit::HeadVersion(head.version.get()));
        }
        let borders = [head.start, head.entry, head.bss, head.end, head.place_end];
        let ordered = borders.is_sorted() && head.entry < head.bss && head.reads <= head.layout;
        let pages = [head.start, head.bss, head.end, head.place_end];
        let whole = pages.iter().all(|at| at.get() % PAGE_SIZE as u64 == 0);
        // It is entered in 32-bit mode.
        if !ordered || !whole || head.place_end > 1 << 31 || !name_of(&head).is_ok_and(printable) {
            return Err(Unfit::Order);
        }
        Ok(Self(head))
    }

    /// Whether this image can follow `running`, where an image's copy has `room` bytes.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn may_follow(&self, running: &Self, room: u64) -> Result<(), Unfit> {
        let (new, old) = (&self.0, &running.0);
        if (new.start, new.place_end) != (old.start, old.place_end) {
            return Err(Unfit::Place(new.start.get(), old.start.get()));
        }
        if self.loaded() > room {
            return Err(Unfit::TooLarge(self.loaded(), room));
        }
        // Both ways: the old one may have to go on with what this one has left.
        if new.reads > old.layout || old.reads > new.layout {
            return Err(Unfit::Layout(new.layout.get(), old.layout.get()));
        }
        Ok(())
    }

    /// Bytes that are loaded: all before those that are zero at the start.
    #[must_use]
    pub fn loaded(&self) -> u64 {
        self.0.bss.get() - self.0.start.get()
    }

    /// Where it lies.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.0.start.get()
    }

    /// Where it is entered, in 32-bit mode.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.0.entry.get()
    }

    /// Where the bytes are that are zero at the start.
    #[must_use]
    pub fn bss(&self) -> core::ops::Range<u64> {
        self.0.bss.get()..self.0.end.get()
    }

    /// Its version, in words.
    #[must_use]
    pub fn version(&self) -> &str {
        // It was checked when it was read.
        name_of(&self.0).unwrap_or_default()
    }
}

fn name_of(head: &HeadRecord) -> Result<&str, core::str::Utf8Error> {
    let len = head.name.iter().position(|byte| *byte == 0);
    core::str::from_utf8(&head.name[..len.unwrap_or(head.name.len())])
}

fn printable(name: &str) -> bool {
    let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    !name.is_empty() && name.len() <= UPDATE_VERSION_MAX && name.bytes().all(printable)
}

/// An image as it is handed over: a page that says which grants it is in.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OfferPage {
    magic: U64,
    /// FNV-1a of the image.
    sum: U64,
    /// Bytes of it.
    len: U32,
    reserved: [U32; 3],
    /// The grants of its pages, in order.
    refs: [U32; OFFER_MAX],
}
const _: () = assert!(size_of::<OfferPage>() == PAGE_SIZE);

/// An image that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOffer {
    /// Bytes of it.
    pub len: u64,
    /// FNV-1a of them.
    pub sum: u64,
    /// The grants that it is in, a page each.
    pub refs: alloc::vec::Vec<u32>,
}

impl ImageOffer {
    /// The page for an image that lies in these grants; `None` if it is too large for one.
    #[must_use]
    pub fn page(image: &[u8], refs: &[u32]) -> Option<[u8; PAGE_SIZE]> {
        let mut page = OfferPage {
            magic: OFFER_MAGIC,
            sum: fnv(image.iter().copied()).into(),
            len: u32::try_from(image.len()).ok()?.into(),
            reserved: [U32::ZERO; 3],
            refs: [U32::ZERO; OFFER_MAX],
        };
        if refs.len() != image.len().div_ceil(PAGE_SIZE) {
            return None;
        }
        for (to, from) in page.refs.get_mut(..refs.len())?.iter_mut().zip(refs) {
            *to = (*from).into();
        }
        Some(zerocopy::transmute!(page))
    }

    /// What the page says, where an image's copy has `room` bytes.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn read(page: &SharedPages, room: u64) -> Result<Self, Unfit> {
        let mut bytes = alloc::vec![0; PAGE_SIZE];
        page.read_bytes(0, &mut bytes);
        let offer = OfferPage::ref_from_bytes(&bytes).map_err(|_| Unfit::NoOffer)?;
        let len = u64::from(offer.len.get());
        if offer.magic != OFFER_MAGIC || len < HEAD_LEN as u64 {
            return Err(Unfit::NoOffer);
        }
        if len > room {
            return Err(Unfit::TooLarge(len, room));
        }
        let pages = (len as usize).div_ceil(PAGE_SIZE);
        let refs = offer.refs.get(..pages).ok_or(Unfit::NoOffer)?;
        Ok(Self {
            len,
            sum: offer.sum.get(),
            refs: refs.iter().map(|gref| gref.get()).collect(),
        })
    }

    /// The head of the image that was offered and lies in `pages` now, if it is whole.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn examine(&self, pages: &SharedPages) -> Result<ImageHead, Unfit> {
        let mut bytes = [0; HEAD_LEN];
        let mut sum = crate::Fnv::default();
        let len = (self.len as usize).min(pages.len());
        for at in (0..len).step_by(HEAD_LEN) {
            let bytes = &mut bytes[..HEAD_LEN.min(len - at)];
            pages.read_bytes(at, bytes);
            sum.add(bytes);
        }
        if sum.value() != self.sum {
            return Err(Unfit::Checksum);
        }
        pages.read_bytes(0, &mut bytes);
        let head = ImageHead::read(&bytes)?;
        if head.loaded() != self.len {
            return Err(Unfit::Length(self.len, head.loaded()));
        }
        Ok(head)
    }
}

impl fmt::Display for ImageHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

/// The layout that this version of the kernel writes, and the oldest that it reads.
pub const LAYOUTS: (u32, u32) = (layout::VERSION, layout::VERSION);
