//! The console ring against a reader that behaves, one that stalls and one that lies.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use spindle_hw::SharedPages;
use spindle_xen::console::{ConsoleRing, OUT_SIZE};

const OUT: usize = 1024;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// xenconsoled's end.
struct Reader(SharedPages);

impl Reader {
    fn take(&self, max: usize) -> Vec<u8> {
        let cons = self.0.u32_at(OUT_CONS).load(Relaxed);
        let prod = self.0.u32_at(OUT_PROD).load(Relaxed);
        let count = (prod.wrapping_sub(cons) as usize).min(max);
        let mut byte = [0];
        let taken = (0..count as u32)
            .map(|i| {
                self.0
                    .read_bytes(OUT + cons.wrapping_add(i) as usize % OUT_SIZE, &mut byte);
                byte[0]
            })
            .collect();
        self.0
            .u32_at(OUT_CONS)
            .store(cons.wrapping_add(count as u32), Relaxed);
        taken
    }
}

fn ring(start: u32) -> (ConsoleRing, Reader) {
    let page = SharedPages::host(1, 0);
    let reader = Reader(page.alias());
    page.u32_at(OUT_CONS).store(start, Relaxed);
    page.u32_at(OUT_PROD).store(start, Relaxed);
    (ConsoleRing::new(page), reader)
}

#[test]
fn a_full_ring_takes_no_more_until_somebody_reads() {
    let (ring, reader) = ring(0);
    assert_eq!(ring.write(&[b'x'; 3000]), OUT_SIZE);
    assert_eq!(ring.write(b"y"), 0);
    assert_eq!(reader.take(5).len(), 5);
    assert_eq!(ring.room(), 5);
    assert_eq!(ring.write(b"abcdefgh"), 5);
}

#[test]
fn a_reader_ahead_of_the_writer_gets_nothing() {
    let (ring, reader) = ring(0);
    reader.0.u32_at(OUT_CONS).store(1, Relaxed);
    assert_eq!(ring.room(), 0);
    assert_eq!(ring.write(b"x"), 0);
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_order(
        start in prop_oneof![Just(0u32), Just(u32::MAX - 100), any::<u32>()],
        steps in prop::collection::vec((0usize..900, 0usize..900), 0..30),
    ) {
        let (ring, reader) = ring(start);
        let (mut next, mut written, mut read) = (0u8, vec![], vec![]);
        for (write, take) in steps {
            let bytes: Vec<u8> = (0..write).map(|i| next.wrapping_add(i as u8)).collect();
            let count = ring.write(&bytes);
            written.extend_from_slice(&bytes[..count]);
            next = next.wrapping_add(count as u8);
            read.extend(reader.take(take));
        }
        read.extend(reader.take(usize::MAX));
        prop_assert_eq!(read, written);
    }
}
