//! Identify Controller (NVM Express Base 2.0, 5.17.2.1).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::NvmeAnswer;
use super::fields::{Field, Shape, json as as_json, large, lines, number};

/// Bytes before the power states.
pub(super) const BYTES: usize = 2048;
/// Bytes of a power state.
const STATE: usize = 32;
/// The number of power states less one, and that of entries in the error log.
const NPSS: usize = 263;
const ELPE: usize = 262;

#[rustfmt::skip]
const FIELDS: [Field; 85] = {
    use Shape::{Bytes, Decimal, Digits, Hex, Text};
    [
        ("vid", 0, 2, Hex), ("ssvid", 2, 2, Hex), ("sn", 4, 20, Text), ("mn", 24, 40, Text), ("fr", 64, 8, Text),
        ("rab", 72, 1, Decimal), ("ieee", 73, 3, Digits), ("cmic", 76, 1, Hex), ("mdts", 77, 1, Decimal),
        ("cntlid", 78, 2, Hex), ("ver", 80, 4, Hex), ("rtd3r", 84, 4, Hex), ("rtd3e", 88, 4, Hex),
        ("oaes", 92, 4, Hex), ("ctratt", 96, 4, Hex), ("rrls", 100, 2, Hex), ("cntrltype", 111, 1, Decimal),
        ("fguid", 112, 16, Bytes), ("crdt1", 128, 2, Decimal), ("crdt2", 130, 2, Decimal),
        ("crdt3", 132, 2, Decimal), ("nvmsr", 253, 1, Decimal), ("vwci", 254, 1, Decimal),
        ("mec", 255, 1, Decimal), ("oacs", 256, 2, Hex), ("acl", 258, 1, Decimal), ("aerl", 259, 1, Decimal),
        ("frmw", 260, 1, Hex), ("lpa", 261, 1, Hex), ("elpe", ELPE, 1, Decimal), ("npss", NPSS, 1, Decimal),
        ("avscc", 264, 1, Hex), ("apsta", 265, 1, Hex), ("wctemp", 266, 2, Decimal), ("cctemp", 268, 2, Decimal),
        ("mtfa", 270, 2, Decimal), ("hmpre", 272, 4, Decimal), ("hmmin", 276, 4, Decimal),
        ("tnvmcap", 280, 16, Decimal), ("unvmcap", 296, 16, Decimal), ("rpmbs", 312, 4, Hex),
        ("edstt", 316, 2, Decimal), ("dsto", 318, 1, Decimal), ("fwug", 319, 1, Decimal), ("kas", 320, 2, Decimal),
        ("hctma", 322, 2, Hex), ("mntmt", 324, 2, Decimal), ("mxtmt", 326, 2, Decimal), ("sanicap", 328, 4, Hex),
        ("hmminds", 332, 4, Decimal), ("hmmaxd", 336, 2, Decimal), ("nsetidmax", 338, 2, Decimal),
        ("endgidmax", 340, 2, Decimal), ("anatt", 342, 1, Decimal), ("anacap", 343, 1, Decimal),
        ("anagrpmax", 344, 4, Decimal), ("nanagrpid", 348, 4, Decimal), ("pels", 352, 4, Decimal),
        ("domainid", 356, 2, Decimal), ("megcap", 368, 16, Decimal), ("sqes", 512, 1, Hex), ("cqes", 513, 1, Hex),
        ("maxcmd", 514, 2, Decimal), ("nn", 516, 4, Decimal), ("oncs", 520, 2, Hex), ("fuses", 522, 2, Hex),
        ("fna", 524, 1, Hex), ("vwc", 525, 1, Hex), ("awun", 526, 2, Decimal), ("awupf", 528, 2, Decimal),
        ("icsvscc", 530, 1, Decimal), ("nwpc", 531, 1, Decimal), ("acwu", 532, 2, Decimal), ("ocfs", 534, 2, Hex),
        ("sgls", 536, 4, Hex), ("mnan", 540, 4, Decimal), ("maxdna", 544, 16, Decimal),
        ("maxcna", 560, 4, Decimal), ("subnqn", 768, 256, Text), ("ioccsz", 1792, 4, Decimal),
        ("iorcsz", 1796, 4, Decimal), ("icdoff", 1800, 2, Decimal), ("fcatt", 1802, 1, Decimal),
        ("msdbd", 1803, 1, Decimal), ("ofcs", 1804, 2, Decimal),
    ]
};

/// How many bytes of the page count, by its first ones.
pub(super) fn bytes(page: &[u8]) -> usize {
    BYTES + states(page) * STATE
}

fn states(page: &[u8]) -> usize {
    (number(page, NPSS, 1) as usize).min(31) + 1
}

/// How many entries the error log has, as far as they can be read.
pub(super) fn error_entries(page: &[u8]) -> u32 {
    (number(page, ELPE, 1) as u32 + 1).min(spindle_status::inspect::MOST_ERRORS)
}

/// The page, as text and as JSON.
pub(super) fn decode(page: &[u8]) -> NvmeAnswer {
    let mut text = format!("NVME Identify Controller:\n{}", lines(page, &FIELDS, 10));
    let mut all = as_json(page, &FIELDS);
    let mut states_json = Vec::new();
    for number in 0..states(page) {
        let state = page.get(BYTES + number * STATE..).unwrap_or_default();
        states_json.push(Value::Object(add_state(&mut text, number, state)));
    }
    all.insert("psds".into(), json!(states_json));
    NvmeAnswer {
        text: text.trim_end().into(),
        json: Value::Object(all),
    }
}

/// Adds a power state to the text, and gives it as JSON.
fn add_state(text: &mut String, at: usize, state: &[u8]) -> Map<String, Value> {
    let get = |at, len| number(state, at, len);
    let flags = get(3, 1);
    let most = if flags & 1 != 0 {
        watts(get(0, 2), 1)
    } else {
        watts(get(0, 2), 2)
    };
    let operational = if flags & 2 != 0 {
        "non-operational"
    } else {
        "operational"
    };
    let (idle_scale, active_scale) = (get(18, 1) >> 6, get(22, 1) >> 6);
    let optional = |value: u128, scale: u128| match (value, scale) {
        (0, _) | (_, 0 | 3) => "-".into(),
        (value, scale) => watts(value, scale),
    };
    let workload = match get(22, 1) & 7 {
        0 => "-".to_string(),
        workload => workload.to_string(),
    };
    // A string takes everything.
    let _ = writeln!(
        text,
        "ps   {at:4} : mp:{most} {operational} enlat:{} exlat:{} rrt:{} rrl:{}\n            \
         rwt:{} rwl:{} idle_power:{} active_power:{}\n            active_power_workload:{workload}",
        get(4, 4),
        get(8, 4),
        get(12, 1) & 31,
        get(13, 1) & 31,
        get(14, 1) & 31,
        get(15, 1) & 31,
        optional(get(16, 2), idle_scale),
        optional(get(20, 2), active_scale),
    );
    let fields = [
        ("max_power", get(0, 2)),
        ("max_power_scale", flags & 1),
        ("non-operational_state", flags >> 1 & 1),
        ("entry_lat", get(4, 4)),
        ("exit_lat", get(8, 4)),
        ("read_tput", get(12, 1) & 31),
        ("read_lat", get(13, 1) & 31),
        ("write_tput", get(14, 1) & 31),
        ("write_lat", get(15, 1) & 31),
        ("idle_power", get(16, 2)),
        ("idle_scale", idle_scale),
        ("active_power", get(20, 2)),
        ("active_power_work", get(22, 1) & 7),
        ("active_scale", active_scale),
    ];
    let named = fields
        .into_iter()
        .map(|(name, value)| (name.to_string(), large(value)));
    named.collect()
}

/// Power in units of 0.0001 W (scale 1) or 0.01 W (scale 2).
fn watts(value: u128, scale: u128) -> String {
    match scale {
        1 => format!("{}.{:04}W", value / 10_000, value % 10_000),
        _ => format!("{}.{:02}W", value / 100, value % 100),
    }
}
