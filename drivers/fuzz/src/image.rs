//! A file that is said to be an image of another version, as a tool in dom0 is given it, and its copy as the
//! kernel is: what is taken for an image lies in the place of one.

use spindle_hw::SharedPages;
use spindle_kept::image::elf::lay_out;
use spindle_kept::image::{ImageHead, ImageOffer};

/// Pages that a copy has room for. Those of the host are never given back.
const ROOM: usize = 4;

std::thread_local! {
    static PAGES: &'static SharedPages = Box::leak(Box::new(SharedPages::host(ROOM, 0)));
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let pages = PAGES.with(|pages| *pages);
    let room = pages.len() as u64;
    if let Ok(image) = lay_out(data) {
        let (head, bss) = (image.head, image.head.bss());
        assert_eq!(image.bytes.len() as u64, head.loaded());
        assert!((head.start()..bss.start).contains(&head.entry()));
        assert_eq!(ImageHead::read(&image.bytes), Ok(head));
        assert_eq!(head.may_follow(&head, head.loaded()), Ok(()));
        let refs: Vec<u32> = (0..image.bytes.len().div_ceil(4096) as u32).collect();
        if let Some(page) = ImageOffer::page(&image.bytes, &refs) {
            pages.write_bytes(0, &page);
            let offer = ImageOffer::read(pages, u64::MAX).expect("as it was written");
            assert_eq!((offer.len, offer.refs), (head.loaded(), refs));
        }
    }
    // What a domain is offered, and what it then finds.
    let (offer, copy) = data.split_at(data.len().min(4096));
    pages.zero(0, pages.len());
    pages.write_bytes(0, offer);
    if let Ok(offer) = ImageOffer::read(pages, room) {
        assert!(offer.len <= room && offer.refs.len() <= ROOM);
        pages.write_bytes(0, &copy[..copy.len().min(pages.len())]);
        if let Ok(head) = offer.examine(pages) {
            assert!(head.loaded() == offer.len && !head.version().is_empty());
        }
    }
}
