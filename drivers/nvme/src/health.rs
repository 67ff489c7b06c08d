//! The SMART / Health Information log (5.14.1.2).

use core::fmt;

use zerocopy::little_endian::{U16, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The log page.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(crate) struct HealthPage {
    critical: u8,
    temperature: U16,
    spare: u8,
    spare_threshold: u8,
    used: u8,
    _to_units_read: [u8; 26],
    units_read: U128,
    units_written: U128,
    _to_power_on: [u8; 64],
    power_on_hours: U128,
    unsafe_shutdowns: U128,
    media_errors: U128,
    _rest: [u8; 336],
}

const _: () = assert!(size_of::<HealthPage>() == 512);
const _: () = assert!(core::mem::offset_of!(HealthPage, units_read) == 32);
const _: () = assert!(core::mem::offset_of!(HealthPage, power_on_hours) == 128);
const _: () = assert!(core::mem::offset_of!(HealthPage, media_errors) == 160);

/// How a disk is, by its own account. Printed as words for people and tools. Counters stop at
/// 2^64 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthLog {
    /// Critical Warning: a bit for each thing that is wrong, 0 if all is well.
    pub critical: u8,
    /// Temperature in kelvin, 0 if it does not say.
    pub temperature: u16,
    /// Spare capacity left, in percent.
    pub spare: u8,
    /// Endurance used up, in percent, which may be more than 100.
    pub used: u8,
    /// Thousands of 512-byte units read.
    pub units_read: u64,
    /// Thousands of 512-byte units written.
    pub units_written: u64,
    /// Hours under power.
    pub power_on_hours: u64,
    /// Times that power went without a shutdown.
    pub unsafe_shutdowns: u64,
    /// Times that data could not be brought back.
    pub media_errors: u64,
}

/// Critical warnings by bit.
const WARNINGS: [&str; 6] = [
    "spare",
    "temperature",
    "reliability",
    "read-only",
    "backup",
    "persistent-memory",
];

impl HealthLog {
    pub(crate) fn new(page: &HealthPage) -> Self {
        Self {
            critical: page.critical,
            temperature: page.temperature.get(),
            spare: page.spare,
            used: page.used,
            units_read: count(page.units_read),
            units_written: count(page.units_written),
            power_on_hours: count(page.power_on_hours),
            unsafe_shutdowns: count(page.unsafe_shutdowns),
            media_errors: count(page.media_errors),
        }
    }
}

impl fmt::Display for HealthLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("warnings=")?;
        let mut given = (0..8).filter(|bit| self.critical >> bit & 1 != 0);
        match given.next() {
            None => f.write_str("none")?,
            Some(first) => {
                f.write_str(warning(first))?;
                for bit in given {
                    write!(f, ",{}", warning(bit))?;
                }
            }
        }
        if self.temperature != 0 {
            write!(f, " celsius={}", i32::from(self.temperature) - 273)?;
        }
        write!(
            f,
            " spare%={} used%={} read_mb={} written_mb={} hours={} unsafe_shutdowns={} \
             media_errors={}",
            self.spare,
            self.used,
            megabytes(self.units_read),
            megabytes(self.units_written),
            self.power_on_hours,
            self.unsafe_shutdowns,
            self.media_errors
        )
    }
}

fn warning(bit: usize) -> &'static str {
    WARNINGS.get(bit).copied().unwrap_or("unknown")
}

/// A unit is 1000 × 512 bytes.
fn megabytes(units: u64) -> u64 {
    units.saturating_mul(64) / 125
}

/// A counter, as far as 64 bits go: to print more takes library code that nothing else needs.
fn count(counter: U128) -> u64 {
    u64::try_from(counter.get()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::blank;
    use alloc::string::ToString;

    #[test]
    fn a_page_becomes_a_line_of_words() {
        let mut page = blank::<HealthPage>().unwrap();
        page.temperature.set(313);
        page.spare = 100;
        page.used = 3;
        page.units_read.set(2000);
        page.media_errors.set(u128::MAX);
        let line = HealthLog::new(&page).to_string();
        let expected = "warnings=none celsius=40 spare%=100 used%=3 read_mb=1024 written_mb=0 \
                        hours=0 unsafe_shutdowns=0 media_errors=";
        assert_eq!(line, expected.to_string() + &u64::MAX.to_string());
        page.critical = 0b1000_1001;
        page.temperature.set(0);
        let line = HealthLog::new(&page).to_string();
        assert!(
            line.starts_with("warnings=spare,read-only,unknown spare%"),
            "{line}"
        );
    }
}
