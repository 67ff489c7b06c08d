//! Small things at the border to Xen: what a hypercall returns, the clock's parameters for any
//! frequency, and events through a box.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use spindle_hw::SharedPages;
use spindle_xen::clock::TimeInfo;
use spindle_xen::errno::Errno;
use spindle_xen::event::{Notify, Port};

/// Numbers from xen/include/public/errno.h.
#[test]
fn what_is_negative_is_an_error_and_all_else_a_value() {
    for value in [0, 1, 7, i64::from(i32::MAX) + 1] {
        assert_eq!(Errno::check(value), Ok(value));
    }
    for (value, name) in [
        (-1, "EPERM"),
        (-22, "EINVAL"),
        (-38, "ENOSYS"),
        (-95, "EOPNOTSUPP"),
    ] {
        let error = Errno::check(value).expect_err("negative");
        assert_eq!(error.to_string(), name);
        assert_eq!(i64::from(error.0), -value);
    }
    assert_eq!(
        Errno::check(-4000).expect_err("negative").to_string(),
        "errno 4000"
    );
    // No error has such a number.
    assert_eq!(Errno::check(i64::from(i32::MIN) - 1), Err(Errno::EINVAL));
}

/// The time after so many ticks, by the structure in memory that these parameters make.
fn after(info: TimeInfo, ticks: u64) -> u64 {
    let page = SharedPages::host(1, 0);
    page.u32_at(0).store(2, Relaxed);
    page.u64_at(8).store(info.tsc, Relaxed);
    page.u64_at(16).store(info.system_ns, Relaxed);
    let shift = u64::from(info.shift.cast_unsigned());
    page.u64_at(24)
        .store(shift << 32 | u64::from(info.multiplier), Relaxed);
    TimeInfo::now_ns(&page, 0, || info.tsc + ticks).expect("settled")
}

#[test]
fn a_counter_of_any_frequency_shows_the_right_time() {
    for hz in [
        1_000_000_u64,
        1_193_182,
        24_000_000,
        999_999_999,
        1_000_000_000,
        1_000_000_001,
        2_000_000_000,
        2_599_999_000,
        3_300_000_123,
        5_000_000_000,
    ] {
        let info = TimeInfo::from_frequency(12345, hz);
        assert_eq!((info.tsc, info.system_ns), (12345, 0));
        for seconds in [1_u64, 10, 3600] {
            // 31 bits of the multiplier, and a nanosecond.
            let (now, right) = (after(info, hz * seconds), seconds * 1_000_000_000);
            let wrong = now.abs_diff(right);
            assert!(
                wrong <= 1 + (right >> 30),
                "{hz} Hz: {now} after {seconds} s"
            );
        }
    }
    // What claims less is taken for 1 MHz.
    assert_eq!(
        TimeInfo::from_frequency(0, 0),
        TimeInfo::from_frequency(0, 1_000_000)
    );
    assert_eq!(
        TimeInfo::from_frequency(0, 999_999),
        TimeInfo::from_frequency(0, 1_000_000)
    );
}

#[derive(Default)]
struct Count(AtomicU32);

impl Notify for &Count {
    fn notify(&self, port: Port) {
        self.0.fetch_add(port.0, Relaxed);
    }
}

#[test]
fn events_go_through_a_box() {
    let count = Count::default();
    let boxed: Box<dyn Notify + '_> = Box::new(&count);
    Notify::notify(&boxed, Port(7));
    assert_eq!(count.0.load(Relaxed), 7);
}
