//! What is printed of pages, of a fake controller that answers as a Spindle hands them over.

use super::*;
use crate::fake::Fake;

const PATIENCE: Duration = Duration::from_secs(15);

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A dom0 with a controller that has something to say.
fn host() -> Fake {
    let mut host = Fake::serving();
    let mut smart = vec![0; 512];
    put(&mut smart, 0, &[0, 0x37, 0x01, 100, 10, 3]);
    put(&mut smart, 32, &2_103_470u64.to_le_bytes());
    put(&mut smart, 128, &[0xff; 16]);
    put(&mut smart, 202, &[0x41, 0x01]);
    let mut identity = vec![0; 4096];
    put(&mut identity, 0, &[0x36, 0x1b, 0xf4, 0x1a]);
    put(&mut identity, 4, b"spindle0            ");
    put(
        &mut identity,
        24,
        b"QEMU NVMe Ctrl                          ",
    );
    put(&mut identity, 64, b"7.2\x1b[0m  ");
    put(&mut identity, 73, &[0, 0x54, 0x52]);
    put(&mut identity, 80, &[0, 4, 1]);
    put(&mut identity, 262, &[3, 1]);
    put(&mut identity, 768, b"nqn.2019-08.org.qemu:spindle0\0more");
    put(&mut identity, 2048, &[0xc4, 0x09]);
    put(&mut identity, 2052, &[16, 0, 0, 0, 4]);
    // A second state, of 0.05 W, that does nothing.
    put(&mut identity, 2080, &[0xf4, 1, 0, 3]);
    put(&mut identity, 2098, &[0x80]);
    put(&mut identity, 2096, &[5]);
    let mut namespace = vec![0; 4096];
    put(&mut namespace, 0, &[0, 8]);
    put(&mut namespace, 24, &[0x10, 1, 1]);
    put(&mut namespace, 64, &[7]);
    put(&mut namespace, 120, &[0x52, 0x54]);
    put(&mut namespace, 130, &[9, 0, 8, 0, 12, 2]);
    let mut errors = vec![0; 256];
    put(&mut errors, 0, &[5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x21, 0]);
    put(&mut errors, 12, &(0x281u16 << 1 | 1).to_le_bytes());
    put(&mut errors, 16, &[0x80]);
    host.pages = vec![
        ("smart".into(), smart),
        ("id-ctrl".into(), identity),
        ("id-ns".into(), namespace),
        ("error-log".into(), errors),
    ];
    host
}

fn asked(host: &mut Fake, disk: &str, page: NvmePage) -> NvmeAnswer {
    read(host, disk, None, page, PATIENCE).expect("an answer")
}

#[test]
fn the_health_log_has_its_names_and_units() {
    let NvmeAnswer { text, json } = asked(&mut host(), "nvme0", NvmePage::Smart);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "Smart Log for NVME device:nvme0 namespace-id:ffffffff"
    );
    assert_eq!(lines.len(), 1 + 22 + 1);
    for (label, shown) in [
        ("critical_warning", "0"),
        ("temperature", "38 °C (311 K)"),
        ("available_spare", "100%"),
        ("percentage_used", "3%"),
        ("Data Units Read", "2103470 (1.08 TB)"),
        ("Data Units Written", "0 (0.00 B)"),
        ("power_on_hours", "340282366920938463463374607431768211455"),
        ("Temperature Sensor 2", "48 °C (321 K)"),
    ] {
        let line = format!("{label:40}: {shown}");
        assert!(lines.contains(&line.as_str()), "{line}\n{text}");
    }
    let at = |label: &str| lines.iter().position(|line| line.starts_with(label));
    assert!(at("Critical Composite") < at("Temperature Sensor 2"));
    assert!(at("Temperature Sensor 2") < at("Thermal Management T1 Trans"));
    assert_eq!(json["temperature"], 311);
    assert_eq!(json["data_units_read"], 2_103_470);
    assert_eq!(json["power_on_hours"], u128::MAX.to_string());
}

#[test]
fn the_controller_comes_in_pieces_with_all_its_power_states() {
    let mut host = host();
    let NvmeAnswer { text, json } = asked(&mut host, "/dev/nvme0n1p2", NvmePage::Controller);
    for line in [
        "vid       : 0x1b36",
        "sn        : spindle0",
        "mn        : QEMU NVMe Ctrl",
        // Not what a terminal would act on.
        "fr        : 7.2?[0m",
        "ieee      : 525400",
        "ver       : 0x10400",
        "cmic      : 0",
        "elpe      : 3",
        "subnqn    : nqn.2019-08.org.qemu:spindle0",
        "ps      0 : mp:25.00W operational enlat:16 exlat:4 rrt:0 rrl:0",
        "ps      1 : mp:0.0500W non-operational enlat:0 exlat:0 rrt:0 rrl:0",
        "            rwt:0 rwl:0 idle_power:0.05W active_power:-",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert_eq!(json["vid"], 0x1b36);
    assert_eq!(json["psds"][1]["entry_lat"], 0);
    assert_eq!(json["psds"].as_array().map(Vec::len), Some(2));
    let orders = host
        .calls
        .iter()
        .filter(|call| call.text.contains(" id-ctrl nvme0 0 "));
    assert_eq!(orders.count(), 3);
}

#[test]
fn a_namespace_shows_its_formats_and_which_is_in_use() {
    let NvmeAnswer { text, json } = asked(&mut host(), "nvme0n1", NvmePage::Namespace);
    for line in [
        "NVME Identify Namespace 1:",
        "nsze    : 0x800",
        "npwg    : 7",
        "eui64   : 5254000000000000",
        "lbaf  0 : ms:0   lbads:9  rp:0",
        "lbaf  1 : ms:8   lbads:12 rp:0x2 (in use)",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert_eq!(json["lbafs"][1]["in_use"], 1);
    let error = read(&mut host(), "nvme0", None, NvmePage::Namespace, PATIENCE).expect_err("none");
    assert!(
        error.to_string().ends_with("name one of nvme0n1"),
        "{error}"
    );
}

#[test]
fn entries_of_the_error_log_are_as_many_as_it_has() {
    let mut host = host();
    let NvmeAnswer { text, json } = asked(&mut host, "nvme0", NvmePage::Errors(64));
    assert!(host.made("error-log nvme0 4 0"));
    for line in [
        "Error Log Entries for device:nvme0 entries:4",
        " Entry[ 0]",
        "error_count     : 5",
        "cmdid           : 0x21",
        "status_field    : 0x281 (Unrecovered Read Error)",
        "phase_tag       : 0x1",
        "lba             : 0x80",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(!text.contains("Entry[ 1]"), "{text}");
    assert_eq!(json["errors"][0]["parm_error_location"], 0);
    let one = asked(&mut host, "nvme0", NvmePage::Errors(1));
    assert!(host.made("error-log nvme0 1 0"));
    assert!(one.text.contains("entries:1"), "{}", one.text);
    host.pages[3].1.fill(0);
    let none = asked(&mut host, "nvme0", NvmePage::Errors(64));
    assert!(none.text.ends_with("no error is recorded"), "{}", none.text);
}

#[test]
fn what_has_no_such_pages_says_why() {
    let mut host = host();
    let targets = "/local/domain/3/data/spindle/targets";
    let disks = "/local/domain/3/data/spindle/disks";
    host.store(
        disks,
        "nvme0n1 2048 512 w x\nvda 2048 512 w x\nram0 2048 512 w x",
    );
    host.store(
        &format!("{targets}/ram0"),
        "ram0 2048 512 w - x\nvg0/web 1024 512 w - x",
    );
    for (disk, kind, text) in [
        ("vda", FaultKind::Refused, "virtio"),
        ("ram0", FaultKind::Refused, "memory"),
        ("vg0/web", FaultKind::Refused, "logical volume"),
        ("vdb", FaultKind::Absent, "no Spindle has a disk vdb"),
        (
            "nvme1",
            FaultKind::Absent,
            "no Spindle has a controller nvme1",
        ),
        ("nvme0x", FaultKind::Absent, "no Spindle has a disk nvme0x"),
    ] {
        let error = read(&mut host, disk, None, NvmePage::Smart, PATIENCE).expect_err(disk);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(FaultKind::of(&error), kind, "{disk}");
    }
    let error = read(&mut host, "nvme0", Some("other"), NvmePage::Smart, PATIENCE);
    assert_eq!(FaultKind::of(&error.expect_err("none")), FaultKind::Absent);
    // What the controller refuses.
    host.pages.clear();
    let error = read(&mut host, "nvme0", None, NvmePage::Smart, PATIENCE).expect_err("refused");
    let error = format!("{error:#}");
    assert!(error.contains("status type 0 code 0x02"), "{error}");
    host.deaf = true;
    let error = read(&mut host, "nvme0", None, NvmePage::Smart, PATIENCE).expect_err("silent");
    let error = format!("{error:#}");
    assert!(error.contains("has not answered within 15 s"), "{error}");
}
