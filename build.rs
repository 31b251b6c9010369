//! The build of the protos, with a compiler in pure Rust, so that a build needs no `protoc`; and
//! the lists of the files for browsers, which are part of the program.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folders of the client for browsers and of the console, each with the name of its list, and
/// the ends of the names of the files that are served.
const FOLDERS: [(&str, &str, &[&str]); 2] = [
    ("src/web/client", "web_client.rs", &[".js", ".d.ts", ".css"]),
    ("src/web/console", "web_console.rs", &[".html", ".js", ".css", ".svg"]),
];
/// The folder of the client for browsers.
const CLIENT: &str = FOLDERS[0].0;
/// The core of the client, and its parts, each after those that it uses.
const CORE: &str = "leftoff.js";
const PARTS: [&str; 6] =
    ["limits.js", "transports.js", "subscription.js", "outbox.js", "connection.js", "tabs.js"];

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=src/web");
    FOLDERS.iter().try_for_each(|(folder, list, ends)| list_files(folder, list, ends))?;
    #[cfg(feature = "_edges")]
    protos::compile()?;
    Ok(())
}

/// Writes the list of a folder's files, for `src/edge/http/web.rs`: each as `(path below the
/// folder, content)`. Files that no browser asks for are left out, and so are the parts of the
/// client's core: they are served within it.
fn list_files(folder: &str, list_name: &str, ends: &[&str]) -> Outcome {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join(folder);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let core = out.join(CORE);
    let is_client = folder == CLIENT;
    if is_client {
        fs::write(&core, join_core(&root)?)?;
    }
    let mut files = Vec::new();
    if root.is_dir() {
        find(&root, &mut files)?;
    }
    files.sort(); // The same list on every machine.
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a name is not UTF-8")?;
        let name = name.replace('\\', "/");
        let is_part = is_client && PARTS.contains(&name.as_str());
        if !is_part && ends.iter().any(|end| name.ends_with(end)) {
            let path = if is_client && name == CORE { &core } else { &file };
            let path = path.to_str().ok_or("a path is not UTF-8")?;
            writeln!(list, "    ({name:?}, include_bytes!({path:?})),")?;
        }
    }
    list.push_str("]\n");
    Ok(fs::write(out.join(list_name), list)?)
}

/// Returns the core as one module: its files one after the other, without their imports of each
/// other. So a browser asks once, and the whole compresses to less than its files. Whoever joins
/// them in another way gets the same: `tests/web/size.test.js` does.
fn join_core(root: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut joined = String::new();
    for name in PARTS.iter().chain([&CORE]) {
        for line in fs::read_to_string(root.join(name))?.lines() {
            let is_import = line.starts_with("import ");
            if is_import && !line.ends_with(';') {
                return Err(format!("{name}: an import takes one line").into());
            }
            let line = if *name == CORE { line } else { line.trim_start_matches("export ") };
            if !is_import {
                writeln!(joined, "{line}")?;
            }
        }
    }
    Ok(joined)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => find(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

/// The messages of the protos, which both edges need.
#[cfg(feature = "_edges")]
mod protos {
    use std::error::Error;

    use prost_build::Config;
    use prost_types::FileDescriptorSet;
    use prost_types::field_descriptor_proto::Type;

    const PROTO: &str = "leftoff/v1/leftoff.proto";
    /// The proto of consumers, beside the first one.
    const CONSUMERS: &str = "leftoff/v1/consumers.proto";
    /// The proto of shared work, beside them.
    const WORK: &str = "leftoff/v1/work.proto";
    /// The proto of the service that only a server with access control has.
    const ACCESS: &str = "leftoff/v1/access.proto";
    /// The proto of the service that only a server with webhooks has.
    const WEBHOOKS: &str = "leftoff/v1/webhooks.proto";
    /// The protos of what the nodes of a fleet say to each other, which reflection does not list.
    #[cfg(feature = "fleet")]
    const CLUSTER: [&str; 2] =
        ["leftoff/cluster/v1/forwarding.proto", "leftoff/cluster/v1/joining.proto"];
    /// A proto with messages only, which the reflection service does not list.
    const CLOUDEVENTS: &str = "io/cloudevents/v1/cloudevents.proto";

    /// Messages with long lists, each with the field of its list. The server has the entries of
    /// these lists as bytes. So it decodes or encodes one entry after the other, and has at most
    /// one of them decoded in memory.
    pub(super) const IN_PARTS: [(&str, &str); 7] = [
        ("PublishRequest", "events"),
        ("PublishStreamRequest", "events"),
        ("ReadResponse", "events"),
        ("ReadStateResponse", "events"),
        ("ListTopicsResponse", "topics"),
        ("ListMembersResponse", "members"),
        ("CloudEventBatch", "events"),
    ];

    /// Compiles all protos into the directory of build outputs.
    pub(super) fn compile() -> Result<(), Box<dyn Error>> {
        let all = [PROTO, CONSUMERS, WORK, ACCESS, WEBHOOKS];
        let descriptors = protox::compile(all, ["proto"])?;
        #[cfg(feature = "grpc")]
        {
            // The reflection service reads these files.
            let own = protox::compile([PROTO, CONSUMERS, WORK], ["proto"])?;
            super::services::describe("leftoff", own)?;
            super::services::describe("leftoff_access", protox::compile([ACCESS], ["proto"])?)?;
            let webhooks = protox::compile([WEBHOOKS], ["proto"])?;
            super::services::describe("leftoff_webhooks", webhooks)?;
            super::services::compile(descriptors)?;
            #[cfg(feature = "fleet")]
            super::services::compile_own(protox::compile(CLUSTER, ["proto"])?)?;
        }
        #[cfg(not(feature = "grpc"))]
        messages().compile_fds(descriptors)?;
        messages().compile_fds(in_parts(protox::compile([CLOUDEVENTS], ["proto"])?))?;
        Ok(())
    }

    fn messages() -> Config {
        let mut config = Config::new();
        config.bytes(["."]).btree_map(["."]);
        config
    }

    /// Returns descriptors of the same messages on the wire, but with bytes for the entries of the
    /// lists in [`IN_PARTS`].
    pub(super) fn in_parts(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
        for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
            let lists = IN_PARTS.iter().filter(|(name, _)| *name == message.name());
            let lists: Vec<&str> = lists.map(|(_, list)| *list).collect();
            for field in message.field.iter_mut().filter(|field| lists.contains(&field.name())) {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
        descriptors
    }
}

/// The services of the protos, their client, and the messages of both.
#[cfg(feature = "grpc")]
mod services {
    use std::error::Error;
    use std::path::{Path, PathBuf};

    use prost_types::FileDescriptorSet;
    use tonic_prost_build::Builder;

    use super::protos::{IN_PARTS, in_parts};

    /// Writes descriptors to a file of their own.
    pub(super) fn describe(
        name: &str,
        descriptors: FileDescriptorSet,
    ) -> Result<(), Box<dyn Error>> {
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        let bytes = prost::Message::encode_to_vec(&descriptors);
        Ok(std::fs::write(out.join(format!("{name}_descriptor.bin")), bytes)?)
    }

    /// Generates all messages with the client, and the services.
    pub(super) fn compile(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        compile_server(descriptors.clone(), &out.join("served"))?;
        configure().build_server(false).compile_fds(descriptors)?;
        Ok(())
    }

    /// Generates services with their clients, whose messages are their own.
    #[cfg(feature = "fleet")]
    pub(super) fn compile_own(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
        Ok(configure().compile_fds(descriptors)?)
    }

    fn configure() -> Builder {
        tonic_prost_build::configure().bytes(".").btree_map(".")
    }

    /// Generates the services, and their own messages for those in [`IN_PARTS`]. All other messages
    /// are the same types as those of clients.
    fn compile_server(descriptors: FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
        let descriptors = in_parts(descriptors);
        let codec = "crate::edge::grpc::codec::Codec";
        let mut server = configure().build_client(false).codec_path(codec).out_dir(out);
        for file in &descriptors.file {
            let messages = file.message_type.iter().map(|message| message.name());
            let messages =
                messages.filter(|name| IN_PARTS.iter().all(|(in_parts, _)| in_parts != name));
            for name in messages.chain(file.enum_type.iter().map(|found| found.name())) {
                let (proto, rust) = (file.package(), format!("crate::edge::proto::{name}"));
                server = server.extern_path(format!(".{proto}.{name}"), rust);
            }
        }
        std::fs::create_dir_all(out)?;
        Ok(server.compile_fds(descriptors)?)
    }
}
