//! The client of `src/web/client`, by its own tests: `tests/web`, in Node. Most of them have a
//! clock, a network and a browser that are simulated, so that hours of faults take seconds.

use std::path::Path;

use super::client::Installed;

#[test]
fn the_client_for_browsers_passes_its_own_tests() {
    let Some(installed) = Installed::find() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let tests: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(".test.js")).collect();
    assert!(tests.len() >= 7, "{folder:?} has {tests:?} alone");
    let mut node = installed.node_tests();
    node.args(&tests).env("LEFTOFF_BIN", env!("CARGO_BIN_EXE_leftoff"));
    let done = node.output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    println!("{told}");
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("skipped 0\n"), "all that the tests need is installed: {told}");
}
