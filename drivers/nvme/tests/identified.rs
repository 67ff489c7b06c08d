//! What Identify says beyond sizes: whether a namespace is protected, which disk it is, and limits of
//! discards in controllers of each version that has them.

mod common;

use common::{OPTIONS, Rig, discard};
use spindle_testkit::nvme::{Config, DiscardConfig, NamespaceConfig};
use spindle_testkit::queue::complete;

#[test]
fn only_a_namespace_that_is_protected_is_shown_as_that() {
    let mut namespaces = vec![
        NamespaceConfig::new(1, 2048, 9),
        NamespaceConfig::new(2, 2048, 9),
    ];
    namespaces[1].read_only = true;
    let rig = Rig::new(Config {
        namespaces,
        ..Config::default()
    });
    let volumes = rig.start().unwrap().volumes(0, 0);
    let protected: Vec<bool> = volumes.iter().map(|volume| volume.read_only).collect();
    assert_eq!(protected, [false, true]);
}

#[test]
fn an_administrator_sees_which_disk_it_is() {
    let rig = Rig::new(Config {
        namespaces: vec![NamespaceConfig::new(7, 2048, 9)],
        ..Config::default()
    });
    let volumes = rig.start().unwrap().volumes(0, 0);
    assert_eq!(
        volumes[0].description,
        "Fake NVMe controller, serial SPINDLE-0001, firmware 1.0, namespace 7"
    );
}

#[test]
fn limits_of_discards_hold_for_controllers_of_later_versions_too() {
    for version in [0x0001_0400, 0x0002_0000] {
        let rig = Rig::new(Config {
            version,
            discards: Some(DiscardConfig {
                ranges: 1,
                range_blocks: 10,
                total_blocks: 10,
            }),
            namespaces: vec![NamespaceConfig::new(1, 256, 9)],
            ..Config::default()
        });
        let (controller, mut queue) = rig.running(OPTIONS);
        assert_eq!(complete(&mut queue, &discard(1, 9, 0, 60)), Ok(Ok(())));
        controller.shutdown([queue]).unwrap();
        rig.obeyed();
    }
}
