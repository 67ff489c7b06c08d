//! Where the next text of an area goes, against a count of every sector.

use super::*;

fn header(start: u64, size: u64, offset: u64, length: u64) -> AreaHeader {
    AreaHeader {
        sector: vec![0; SECTOR as usize],
        start,
        size,
        offset,
        length,
        checksum: 0,
        ignored: false,
    }
}

/// The sectors that a text touches, which goes on behind the header where the area ends.
fn touched(size: u64, offset: u64, length: u64) -> Vec<bool> {
    let mut sectors = vec![false; (size / SECTOR) as usize];
    let mut at = offset;
    for _ in 0..length {
        sectors[(at / SECTOR) as usize] = true;
        at = if at + 1 == size { SECTOR } else { at + 1 };
    }
    sectors
}

#[test]
fn the_next_text_lies_in_sectors_that_the_present_one_has_not() {
    let lengths = [1, 511, 512, 513, 1024, 1500, 2048, 3000];
    for size in (3..=12).map(|sectors| sectors * SECTOR) {
        let room = size - SECTOR;
        for (place, byte) in (1..size / SECTOR).flat_map(|at| [(at, 0), (at, 1), (at, 511)]) {
            for (now, next) in lengths
                .iter()
                .flat_map(|now| lengths.map(|next| (*now, next)))
            {
                if now > room {
                    continue;
                }
                let area = header(4096, size, place * SECTOR + byte, now);
                let taken = touched(size, area.offset, now);
                // Sectors count as taken as often as the text is in them: at both of its ends in one.
                let begins = area.offset % SECTOR;
                let whole = (begins + now).div_ceil(SECTOR) + next.div_ceil(SECTOR);
                let fits = next <= room / 2 && whole <= room / SECTOR;
                let found = area.place_for(next);
                assert_eq!(found.is_some(), fits, "{size} {} {now} {next}", area.offset);
                let Some(found) = found else {
                    continue;
                };
                assert!(found.is_multiple_of(SECTOR));
                let new = touched(size, found, next);
                assert!(!new[0], "the header stays");
                let meet = taken.iter().zip(&new).any(|(old, new)| *old && *new);
                assert!(!meet, "{size} {} {now} {next}: {found}", area.offset);
            }
        }
    }
}

#[test]
fn an_area_that_is_empty_begins_behind_its_header_and_a_strange_one_is_left_alone() {
    let room = |header: AreaHeader, length| header.place_for(length);
    assert_eq!(room(header(4096, 4096, 0, 0), 1), Some(SECTOR));
    // At most the half of it, so that the one after it finds room, and no more than is read.
    assert_eq!(
        room(header(4096, 9 * SECTOR, 0, 0), 4 * SECTOR),
        Some(SECTOR)
    );
    assert_eq!(room(header(4096, 9 * SECTOR, 0, 0), 4 * SECTOR + 1), None);
    let large = 4 * MAX_TEXT;
    assert_eq!(room(header(4096, large, 0, 0), MAX_TEXT), Some(SECTOR));
    assert_eq!(room(header(4096, large, 0, 0), MAX_TEXT + 1), None);
    // Its borders are those of sectors.
    for (start, size) in [(4097, 4096), (4096, 4095), (4097, 4609), (4095, 4097)] {
        assert_eq!(room(header(start, size, 0, 0), 1), None, "{start} {size}");
    }
    // What is said of the present text makes sense.
    for (offset, length, is_sound) in [
        (SECTOR, 100, true),
        (SECTOR - 1, 100, false),
        (4095, 100, true),
        (4096, 100, false),
        (SECTOR, 7 * SECTOR, false),
        (SECTOR, 6 * SECTOR, true),
        (SECTOR, 7 * SECTOR + 1, false),
        (SECTOR, u64::MAX, false),
    ] {
        let found = room(header(4096, 4096, offset, length), 1);
        assert_eq!(found.is_some(), is_sound, "{offset} {length}");
    }
}
