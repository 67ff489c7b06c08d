//! Values of options: sizes with a unit, runs of guest frames, and the nearest key to a mistyped one.

/// A size in bytes: digits and an optional `K`, `M` or `G` (powers of 1024), as xl writes them.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The most pages in a run of frames: 1 GiB, far more than any register block has.
const MAX_FRAMES: u64 = 1 << 18;
/// Page numbers end where addresses of 52 bits do.
const FRAME_LIMIT: u64 = 1 << 40;

/// `GFN,PAGES`, both in hexadecimal without a prefix, as xl's `iomem=` has them: a run of at least
/// one page that does not start at frame 0.
pub(crate) fn frames(text: &str) -> Option<(u64, u64)> {
    let hex = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| plain)
    };
    let (frame, pages) = text.split_once(',')?;
    let (frame, pages) = (hex(frame)?, hex(pages)?);
    let sound = frame > 0 && (1..=MAX_FRAMES).contains(&pages) && frame <= FRAME_LIMIT - pages;
    sound.then_some((frame, pages))
}

/// The candidate that `word` most looks like, if it looks like any.
pub(crate) fn nearest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(2).min(3))
        .map(|(_, candidate)| candidate)
}

/// Letters to add, drop or change to turn `a` into `b` (Levenshtein), over the first 32 bytes.
fn distance(a: &str, b: &str) -> usize {
    const MOST: usize = 32;
    let a = &a.as_bytes()[..a.len().min(MOST)];
    let b = &b.as_bytes()[..b.len().min(MOST)];
    let mut row = [0; MOST + 1];
    for (j, cell) in row.iter_mut().enumerate() {
        *cell = j;
    }
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use proptest::prelude::*;

    /// The definition of Levenshtein's distance.
    fn defined(a: &[u8], b: &[u8]) -> usize {
        let ([x, left @ ..], [y, right @ ..]) = (a, b) else {
            return a.len().max(b.len());
        };
        if x == y {
            return defined(left, right);
        }
        let drop = defined(left, b);
        let add = defined(a, right);
        1 + drop.min(add).min(defined(left, right))
    }

    proptest! {
        #[test]
        fn words_differ_by_as_much_as_is_defined(a in "[a-c]{0,6}", b in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&a, &b), defined(a.as_bytes(), b.as_bytes()));
        }
    }

    #[test]
    fn of_long_words_the_first_32_bytes_count() {
        let long = |letter: &str, number: usize| -> String { letter.repeat(number) };
        assert_eq!(distance(&long("a", 32), &long("b", 32)), 32);
        assert_eq!(distance(&long("a", 32), &long("a", 31)), 1);
        assert_eq!(distance(&long("a", 40), &long("a", 32)), 0);
        assert_eq!(distance("", &long("a", 99)), 32);
        assert_eq!(distance(&long("a", 99), ""), 32);
    }

    #[test]
    fn sizes_take_the_units_that_xl_takes() {
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("4K"), Some(4096));
        assert_eq!(size("4k"), Some(4096));
        assert_eq!(size("64M"), Some(64 << 20));
        assert_eq!(size("1m"), Some(1 << 20));
        assert_eq!(size("2g"), Some(2 << 30));
        assert_eq!(size("17179869183G"), Some(((1 << 34) - 1) << 30));
        assert_eq!(size("17179869184G"), None);
        for bad in ["", "M", "-1", "+1", "1.5G", "1T", "99999999999G", "1 M"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn frames_are_those_that_iomem_takes_within_the_address_space() {
        assert_eq!(frames("e0000,4"), Some((0xe0000, 4)));
        assert_eq!(frames("FFFFFFFFFF,1"), Some(((1 << 40) - 1, 1)));
        assert_eq!(frames("fffffffffe,2"), Some(((1 << 40) - 2, 2)));
        assert_eq!(frames("1,40000"), Some((1, 1 << 18)));
        for bad in [
            "",
            ",",
            "e0000",
            "e0000,",
            "e0000,0",
            "0,4",
            "0xe0000,4",
            "+e0000,4",
            "e0000,4,4",
            "ffffffffff,2",
            "e0000,+4",
            "1,40001",
            "10000000000000000,1",
        ] {
            assert_eq!(frames(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour_and_nonsense_finds_none() {
        assert_eq!(nearest("logg", &["log", "ram0"]), Some("log"));
        assert_eq!(nearest("rma0", &["log", "ram0"]), Some("ram0"));
        assert_eq!(nearest("completely-different", &["log", "ram0"]), None);
    }
}
