//! A browser that a test drives: headless Chromium behind chromedriver, with commands over HTTP.
//! Knows pages and scripts, and nothing of the broker. Source: W3C WebDriver.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{send, text, to};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const DRIVERS: [&str; 1] = ["chromedriver"];

/// The variable with which a test fails if no browser is installed.
const REQUIRED: &str = "REQUIRE_BROWSER";

/// Arguments with which the browser runs as root and in a container, by itself, and connects only
/// to the test's servers.
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox", // Root cannot have a sandbox.
    "--disable-gpu",
    "--disable-dev-shm-usage", // Containers have little shared memory.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
];

/// A browser, with one page until a test opens more tabs. It is killed when it is dropped: asked to
/// end, it waits for its own processes, and takes more than 30 s on a machine that is busy enough.
pub(crate) struct Browser {
    driver: Driver,
    /// The beginning of the paths of all commands to this browser.
    session: String,
}

/// A tab of a browser.
pub(crate) struct Tab(Value);

impl Browser {
    /// Starts a browser with an empty profile, or returns `None` if none is installed.
    pub(crate) async fn start() -> Option<Self> {
        let Some((chromium, chromedriver)) = find(&BROWSERS).zip(find(&DRIVERS)) else {
            let problem = "no chromium and chromedriver in PATH, \
                           install the packages chromium and chromium-driver";
            assert!(env::var_os(REQUIRED).is_none(), "{problem}");
            println!("skipped: {problem}");
            return None;
        };
        let driver = Driver::start(&chromedriver);
        let profile = driver.directory.path().join("profile");
        let mut arguments = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let options = json!({"binary": chromium, "args": arguments});
        let capabilities = json!({"alwaysMatch": {
            "goog:chromeOptions": options,
            "acceptInsecureCerts": true, // Certificates of tests are self-signed.
        }});
        let begun = driver.command("POST", "/session", json!({"capabilities": capabilities})).await;
        let session = format!("/session/{}", begun["sessionId"].as_str().unwrap());
        Some(Self { driver, session })
    }

    /// Opens the page at `url`.
    pub(crate) async fn go_to(&self, url: &str) {
        self.command("POST", "/url", json!({"url": url})).await;
    }

    /// Runs a function's body in the page, with the array `arguments`, and returns its result.
    pub(crate) async fn run(&self, script: &str, arguments: Value) -> Value {
        self.command("POST", "/execute/sync", json!({"script": script, "args": arguments})).await
    }

    /// Gives the browser a cookie for the origin of the page that is open, of which no script of a
    /// page knows.
    pub(crate) async fn keep_cookie(&self, name: &str, value: &str, is_secure: bool) {
        let cookie = json!({
            "name": name, "value": value, "httpOnly": true, "secure": is_secure,
            "sameSite": "Strict",
        });
        self.command("POST", "/cookie", json!({"cookie": cookie})).await;
    }

    /// Returns the tab that the commands go to.
    pub(crate) async fn tab(&self) -> Tab {
        Tab(self.driver.command("GET", &format!("{}/window", self.session), json!({})).await)
    }

    /// Opens another tab. The commands still go to the tab that they went to. A tab is hidden while
    /// the commands go to another one of its window.
    pub(crate) async fn new_tab(&self) -> Tab {
        self.open("tab").await
    }

    /// Does the same as [`Self::new_tab`], in a window of its own.
    pub(crate) async fn new_window(&self) -> Tab {
        self.open("window").await
    }

    async fn open(&self, kind: &str) -> Tab {
        Tab(self.command("POST", "/window/new", json!({"type": kind})).await["handle"].take())
    }

    /// Sends the commands that follow to `tab`.
    pub(crate) async fn switch_to(&self, tab: &Tab) {
        self.command("POST", "/window", json!({"handle": tab.0})).await;
    }

    /// Closes the tab that the commands go to. Another one has to be chosen for those that follow.
    pub(crate) async fn close_tab(&self) {
        self.command("DELETE", "/window", json!({})).await;
    }

    /// Goes to the page before the present one.
    pub(crate) async fn go_back(&self) {
        self.command("POST", "/back", json!({})).await;
    }

    /// Takes the network away from the page, as far as the browser has it in its hands: pages are
    /// told, and requests fail. WebSockets that are open stay open.
    pub(crate) async fn take_network(&self, is_away: bool) {
        let conditions = json!({
            "offline": is_away, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.ask_devtools("Network.emulateNetworkConditions", conditions).await;
    }

    /// Freezes the page, as browsers do with tabs that nobody looks at, or thaws it.
    pub(crate) async fn freeze(&self, is_frozen: bool) {
        let state = if is_frozen { "frozen" } else { "active" };
        self.ask_devtools("Page.setWebLifecycleState", json!({"state": state})).await;
    }

    /// Presses a key in the page: a character, or a key by its code in WebDriver.
    pub(crate) async fn press(&self, key: &str) {
        let keys = [("keyDown", key), ("keyUp", key)]
            .map(|(what, value)| json!({"type": what, "value": value}));
        let keys = json!([{"type": "key", "id": "keyboard", "actions": keys}]);
        self.command("POST", "/actions", json!({"actions": keys})).await;
    }

    /// Gives the page a viewport of this size, in CSS pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask_devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Has pages be light or dark, as people prefer.
    pub(crate) async fn prefer_scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.ask_devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Stores what is seen of the page as a PNG.
    pub(crate) async fn take_picture(&self, path: &Path) {
        let picture = self.command("GET", "/screenshot", json!({})).await;
        let picture = STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(path, picture).unwrap();
    }

    /// Sends a command of the protocol of Chromium's developer tools.
    async fn ask_devtools(&self, command: &str, parameters: Value) {
        let asked = json!({"cmd": command, "params": parameters});
        self.command("POST", "/goog/cdp/execute", asked).await;
    }

    async fn command(&self, method: &str, path: &str, body: Value) -> Value {
        self.driver.command(method, &format!("{}{path}", self.session), body).await
    }
}

/// How often a driver is started, until one finds a free port.
const START_ATTEMPTS: usize = 10;

/// The program that controls a browser, which is its child.
struct Driver {
    child: Child,
    address: SocketAddr,
    /// The driver's output, kept open so that the driver can go on printing.
    _output: BufReader<ChildStdout>,
    /// The directory for all files of the driver and the browser.
    directory: TempDir,
}

impl Driver {
    /// Starts a driver. It takes a free port of IPv6, and then needs the port of IPv4 with the same
    /// number: it ends if another program has that one, and another number is tried.
    fn start(chromedriver: &Path) -> Self {
        let mut said = String::new();
        (0..START_ATTEMPTS)
            .find_map(|_| Self::try_start(chromedriver, &mut said))
            .unwrap_or_else(|| panic!("chromedriver does not say where it listens: {said}"))
    }

    /// Starts a driver; `None` if it ends before it listens. What it prints is added to `said`.
    fn try_start(chromedriver: &Path, said: &mut String) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(chromedriver)
            .arg("--port=0")
            .env("HOME", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // The browser joins this group, to be killed with it.
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let port = output.by_ref().lines().map_while(Result::ok).find_map(|line| {
            said.push_str(&line);
            said.push('\n');
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let Some(port) = port else {
            let _it_may_have_ended = child.kill();
            let _it_may_have_ended = child.wait();
            return None;
        };
        let address = ([127, 0, 0, 1], port).into();
        Some(Self { child, address, _output: output, directory })
    }

    async fn command(&self, method: &str, path: &str, body: Value) -> Value {
        let request = to(self.address, method, path).header("content-type", "application/json");
        let answer = send(request, body.to_string()).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", text(&answer.body));
        answer.json()["value"].take()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _they_may_have_ended = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _it_may_have_ended = self.child.wait();
    }
}

/// Returns the path of the first of these programs that is in `PATH`.
fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let directories: Vec<PathBuf> = env::split_paths(&path).collect();
    let mut places = names.iter().flat_map(|name| directories.iter().map(move |at| at.join(name)));
    places.find(|place| place.is_file())
}
