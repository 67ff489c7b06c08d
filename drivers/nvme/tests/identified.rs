//! What a namespace is shown as, apart from its size: protected or not, and in words.

mod common;

use common::Rig;
use spindle_testkit::nvme::{Config, NamespaceConfig};

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
