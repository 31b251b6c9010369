//! The real binary with access control, and the credentials of one caller who may do everything
//! with all topics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::served::Served;

/// A broker with access control.
pub(crate) struct Controlled {
    pub(crate) served: Served,
    /// The file with a static key.
    #[allow(dead_code, reason = "not every bench sends it")]
    pub(crate) key_file: PathBuf,
    /// The file with a token.
    #[allow(dead_code, reason = "not every bench sends it")]
    pub(crate) token_file: PathBuf,
    /// The file with the secret by which tokens are signed.
    #[allow(dead_code, reason = "not every bench signs any")]
    pub(crate) secret: PathBuf,
}

impl Controlled {
    /// Starts the broker in `directory`, with a key and a token that it accepts.
    pub(crate) fn start(directory: &Path) -> Self {
        let [settings, key_file, secret, token_file] =
            ["broker.toml", "key", "secret", "token"].map(|name| directory.join(name));
        let rights = ["--publish", ">", "--subscribe", ">"];
        let path = |path: &PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
        let key = ["key", "create", "--name", "bench", "--key-file", &path(&key_file)];
        let key = run(&[&key[..], &rights].concat());
        fs::write(&secret, "a secret of a bench, which is as long as it has to be")
            .expect("a file");
        let token = ["token", "--sub", "bench", "--expires", "1day", "--key-file", &path(&secret)];
        fs::write(&token_file, run(&[&token[..], &rights].concat())).expect("a file");
        let access = format!(
            "[access]\nmode = \"required\"\n\n{key}\n[[access.issuers]]\nalgorithms = [\"HS256\"]\n\
             secret_file = {:?}\n",
            path(&secret)
        );
        fs::write(&settings, access).expect("a file");
        let served = Served::start_with(&directory.join("data"), &["--config", &path(&settings)]);
        Self { served, key_file, token_file, secret }
    }
}

/// Runs a command of the binary, and returns what it prints.
fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_leftoff")).args(arguments).output();
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
