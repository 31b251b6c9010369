//! Real nginx and HAProxy in front of a broker, with the configurations that come with the project.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::common::{PATIENCE, lasting_address, output_of, text};

/// When it is set, a test that does not find the proxies fails.
const REQUIRED: &str = "REQUIRE_PROXIES";

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// What is not of the site: where nginx writes, and what it notes of each answer.
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

/// A proxy, which ends with this.
pub(super) struct Proxy {
    /// Where it takes HTTP/1.1.
    pub(super) address: SocketAddr,
    /// Where it takes TLS, and HTTP/2 in it.
    pub(super) secure_address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// nginx in front of the broker at `broker`; `None` where it is not installed.
    pub(super) async fn nginx(broker: SocketAddr) -> Option<Self> {
        Self::nginx_with(broker, &[]).await
    }

    /// As [`Self::nginx`], with these texts of its configuration replaced by others.
    pub(super) async fn nginx_with(broker: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
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

    /// HAProxy in front of the broker at `broker`; `None` where it is not installed.
    pub(super) async fn haproxy(broker: SocketAddr) -> Option<Self> {
        Self::haproxy_with(broker, &[]).await
    }

    /// As [`Self::haproxy`], with these texts of its configuration replaced by others.
    pub(super) async fn haproxy_with(broker: SocketAddr, changes: &[(&str, &str)]) -> Option<Self> {
        let [haproxy, openssl] = find(["haproxy", "openssl"])?;
        let directory = tempfile::tempdir().unwrap();
        let [address, secure_address] = [(); 2].map(|()| lasting_address());
        let [key, certificate] = certify(&openssl, directory.path());
        // HAProxy wants both in one file.
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

    /// The certificate that it shows, as a file.
    pub(super) fn certificate(&self) -> String {
        self.directory.path().join("certificate.pem").to_str().unwrap().to_owned()
    }

    /// The answers that nginx gave so far, a line each: their status, that of the broker's own
    /// answer, the request and the client.
    pub(super) fn answers(&self) -> String {
        fs::read_to_string(self.directory.path().join("answers")).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// Where these programs are; `None` where one is not installed.
fn find<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian has servers; it is not in the path of everybody.
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

/// Makes a key and a certificate for the loopback address; their files.
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

/// A configuration of `data/proxy` with texts that are in it replaced by others.
fn replaced(file: &str, of_the_test: &[(&str, &str)], changes: &[(&str, &str)]) -> String {
    let mut site = configuration(file);
    for (from, to) in of_the_test.iter().chain(changes) {
        assert!(site.contains(from), "{from:?} is in {file}");
        site = site.replace(from, to);
    }
    site
}

/// A configuration of `data/proxy`, as it is.
fn configuration(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/proxy").join(file);
    fs::read_to_string(path).unwrap()
}
