//! Real nginx and HAProxy in front of a broker, with the configurations of the project.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::common::{PATIENCE, lasting_address, output_of, text};

/// The variable with which a test fails if the proxies are not installed.
const REQUIRED: &str = "REQUIRE_PROXIES";

/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// The part of nginx's configuration outside the site: where it writes, and the log of its answers.
const NGINX: &str = r#"
    daemon off;
    master_process off;
    pid DIRECTORY/pid;
    error_log DIRECTORY/errors;
    events {}
    http {
        log_format answers '$status $upstream_status "$request" "$http_user_agent"';
        access_log DIRECTORY/answers answers;
        client_body_temp_path DIRECTORY/bodies;
        proxy_temp_path DIRECTORY/proxied;
        fastcgi_temp_path DIRECTORY/fastcgi;
        uwsgi_temp_path DIRECTORY/uwsgi;
        scgi_temp_path DIRECTORY/scgi;
        include DIRECTORY/site.conf;
    }
"#;

/// A running proxy, ended when the value is dropped.
pub(crate) struct Proxy {
    /// The address for HTTP/1.1.
    pub(crate) address: SocketAddr,
    /// The address for TLS, with HTTP/2.
    pub(super) secure_address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// Starts nginx in front of `broker`, or returns `None` if it is not installed.
    pub(super) async fn nginx(broker: SocketAddr) -> Option<Self> {
        Self::nginx_with(broker, &[]).await
    }

    /// Does the same as [`Self::nginx`], with these texts of its configuration replaced.
    pub(crate) async fn nginx_with(broker: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let [nginx, openssl] = find(["nginx", "openssl"])?;
        let directory = tempfile::tempdir().unwrap();
        let [address, secure_address] = [(); 2].map(|()| lasting_address());
        let [key, certificate] = certify(&openssl, directory.path());
        let site = replaced(
            "nginx.conf",
            &[
                ("listen 80;", &format!("listen {address};")),
                ("listen 443 ", &format!("listen {secure_address} ")),
                ("/etc/ssl/certs/leftoff.pem", &certificate),
                ("/etc/ssl/private/leftoff.key", &key),
                ("127.0.0.1:4280", &broker.to_string()),
            ],
            changes,
        );
        fs::write(directory.path().join("site.conf"), site).unwrap();
        let main = NGINX.replace("DIRECTORY", directory.path().to_str().unwrap());
        let file = directory.path().join("nginx.conf");
        fs::write(&file, main).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-p").arg(directory.path()).arg("-c").arg(file);
        Some(Self::start(&mut command, directory, address, secure_address).await)
    }

    /// Starts HAProxy in front of `broker`, or returns `None` if it is not installed.
    pub(super) async fn haproxy(broker: SocketAddr) -> Option<Self> {
        Self::haproxy_with(broker, &[]).await
    }

    /// Does the same as [`Self::haproxy`], with these texts of its configuration replaced.
    pub(super) async fn haproxy_with(broker: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let [haproxy, openssl] = find(["haproxy", "openssl"])?;
        let directory = tempfile::tempdir().unwrap();
        let [address, secure_address] = [(); 2].map(|()| lasting_address());
        let [key, certificate] = certify(&openssl, directory.path());
        // HAProxy needs both in one file.
        let both = directory.path().join("leftoff.pem");
        let parts = [&key, &certificate].map(|part| fs::read(part).unwrap());
        fs::write(&both, parts.concat()).unwrap();
        let site = replaced(
            "haproxy.cfg",
            &[
                ("bind :80\n", &format!("bind {address}\n")),
                ("bind :443 ", &format!("bind {secure_address} ")),
                ("/etc/haproxy/leftoff.pem", both.to_str().unwrap()),
                ("127.0.0.1:4280", &broker.to_string()),
            ],
            changes,
        );
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, site).unwrap();
        let mut command = Command::new(haproxy);
        command.arg("-q").arg("-f").arg(file);
        Some(Self::start(&mut command, directory, address, secure_address).await)
    }

    async fn start(
        command: &mut Command,
        directory: TempDir,
        address: SocketAddr,
        secure_address: SocketAddr,
    ) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut proxy = Self { address, secure_address, child, directory };
        let started = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert_eq!(proxy.child.try_wait().unwrap(), None, "{command:?} has ended");
            assert!(started.elapsed() < PATIENCE, "{command:?} does not listen");
            tokio::time::sleep(PAUSE).await;
        }
        proxy
    }

    /// Returns the file of the proxy's certificate.
    pub(super) fn certificate(&self) -> String {
        self.directory.path().join("certificate.pem").to_str().unwrap().to_owned()
    }

    /// Stops the proxy in the middle of its work, as if its cable had been pulled: connections stay
    /// open, and carry nothing. The value that is returned lets it go on when it is dropped.
    pub(super) fn pause(&self) -> Paused {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::STOP).unwrap();
        Paused(id)
    }

    /// Returns nginx's answers so far, one in each line: its status, the status of the broker's
    /// answer, the request, and the client.
    pub(super) fn answers(&self) -> String {
        fs::read_to_string(self.directory.path().join("answers")).unwrap()
    }
}

/// A proxy that does nothing for as long as this value lives.
pub(super) struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        let _it_may_have_ended = kill_process(self.0, Signal::CONT);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// Returns the paths of these programs, or `None` if one is not installed.
fn find<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs servers in this directory, which is not in every user's `PATH`.
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    directories.push("/usr/sbin".into());
    let found = names.map(|name| {
        let mut places = directories.iter().map(|directory| directory.join(name));
        places.find(|place| place.is_file())
    });
    if let Some(missing) = found.iter().position(Option::is_none) {
        let problem = format!("no {} in PATH, install the package", names[missing]);
        assert!(env::var_os(REQUIRED).is_none(), "{problem}");
        println!("skipped: {problem}");
        return None;
    }
    Some(found.map(Option::unwrap))
}

/// Makes a key and a certificate for the loopback address, and returns their files.
fn certify(openssl: &Path, directory: &Path) -> [String; 2] {
    let files = ["key.pem", "certificate.pem"].map(|file| directory.join(file));
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", "/CN=leftoff.example"]);
    command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    let output = output_of(command.arg("-keyout").arg(&files[0]).arg("-out").arg(&files[1]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    files.map(|file| file.to_str().unwrap().to_owned())
}

/// Returns a configuration of `data/proxy` with some of its texts replaced.
fn replaced(file: &str, of_the_test: &[(&str, &str)], changes: &[(&str, &str)]) -> String {
    let mut site = configuration(file);
    for (from, to) in of_the_test.iter().chain(changes) {
        assert!(site.contains(from), "{from:?} is not in {file}");
        site = site.replace(from, to);
    }
    site
}

/// Returns a configuration of `data/proxy`.
fn configuration(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/proxy").join(file);
    fs::read_to_string(path).unwrap()
}
