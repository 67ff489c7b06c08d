//! The SMART / Health Information log (NVM Express Base 2.0, 5.16.1.3).

use serde_json::{Map, Value};

use super::NvmeAnswer;
use super::fields::{large, number};

/// Bytes of the log.
pub(super) const BYTES: usize = 512;

/// What it counts: what text calls it, what JSON does, its first byte, how many it has, and how it is shown.
type Counted = (&'static str, &'static str, usize, usize, Unit);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// A number.
    Count,
    /// Bits, in hexadecimal if there are any.
    Flags,
    /// Hundredths.
    Percent,
    /// Kelvin.
    Kelvin,
    /// A thousand units of 512 bytes.
    Data,
}

#[rustfmt::skip]
const COUNTED: [Counted; 22] = [
    ("critical_warning", "critical_warning", 0, 1, Unit::Flags),
    ("temperature", "temperature", 1, 2, Unit::Kelvin),
    ("available_spare", "avail_spare", 3, 1, Unit::Percent),
    ("available_spare_threshold", "spare_thresh", 4, 1, Unit::Percent),
    ("percentage_used", "percent_used", 5, 1, Unit::Percent),
    ("endurance group critical warning summary", "endurance_grp_critical_warning_summary", 6, 1, Unit::Flags),
    ("Data Units Read", "data_units_read", 32, 16, Unit::Data),
    ("Data Units Written", "data_units_written", 48, 16, Unit::Data),
    ("host_read_commands", "host_read_commands", 64, 16, Unit::Count),
    ("host_write_commands", "host_write_commands", 80, 16, Unit::Count),
    ("controller_busy_time", "controller_busy_time", 96, 16, Unit::Count),
    ("power_cycles", "power_cycles", 112, 16, Unit::Count),
    ("power_on_hours", "power_on_hours", 128, 16, Unit::Count),
    ("unsafe_shutdowns", "unsafe_shutdowns", 144, 16, Unit::Count),
    ("media_errors", "media_errors", 160, 16, Unit::Count),
    ("num_err_log_entries", "num_err_log_entries", 176, 16, Unit::Count),
    ("Warning Temperature Time", "warning_temp_time", 192, 4, Unit::Count),
    ("Critical Composite Temperature Time", "critical_comp_time", 196, 4, Unit::Count),
    ("Thermal Management T1 Trans Count", "thm_temp1_trans_count", 216, 4, Unit::Count),
    ("Thermal Management T2 Trans Count", "thm_temp2_trans_count", 220, 4, Unit::Count),
    ("Thermal Management T1 Total Time", "thm_temp1_total_time", 224, 4, Unit::Count),
    ("Thermal Management T2 Total Time", "thm_temp2_total_time", 228, 4, Unit::Count),
];
/// Temperature sensors: the first byte of the first, and how many there may be. They stand between the others.
const SENSORS: (usize, usize) = (200, 8);

impl Unit {
    fn shown(self, value: u128) -> String {
        match self {
            Self::Flags if value > 0 => format!("{value:#x}"),
            Self::Count | Self::Flags => value.to_string(),
            Self::Percent => format!("{value}%"),
            Self::Kelvin => format!("{} °C ({value} K)", value as i128 - 273),
            Self::Data => format!("{value} ({})", bytes(value as f64 * 512_000.0)),
        }
    }
}

/// The log of this controller.
pub(super) fn decode(name: &str, page: &[u8]) -> NvmeAnswer {
    let mut text = format!("Smart Log for NVME device:{name} namespace-id:ffffffff");
    let mut json = Map::new();
    let mut add = |label: &str, key: String, value: u128, unit: Unit| {
        text += &format!("\n{label:40}: {}", unit.shown(value));
        json.insert(key, large(value));
    };
    let mut sensors = Some(SENSORS);
    for (label, key, at, len, unit) in COUNTED {
        let before = sensors.take_if(|(first, _)| at > *first);
        for sensor in 0..before.map_or(0, |(_, count)| count) {
            let value = number(page, SENSORS.0 + 2 * sensor, 2);
            if value > 0 {
                let number = sensor + 1;
                let label = format!("Temperature Sensor {number}");
                add(
                    &label,
                    format!("temperature_sensor_{number}"),
                    value,
                    Unit::Kelvin,
                );
            }
        }
        add(label, key.into(), number(page, at, len), unit);
    }
    NvmeAnswer {
        text,
        json: Value::Object(json),
    }
}

/// Bytes in the decimal unit that fits, as disks are sold.
fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut number, mut unit) = (bytes, 0);
    while number >= 999.995 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    format!("{number:.2} {}", UNITS[unit])
}
