//! No file of `src` imports itself through others, and no two types have one name.
//!
//! A circle of files is a sign that a leaf is missing: no file of a circle can be read, tested or
//! moved alone. The sources are read as tokens, without comments, string literals and test code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// The text of each source, by its path.
type Sources = BTreeMap<String, String>;

/// The path of a module inside the crate, empty for the root.
type Module = Vec<String>;

fn sources() -> Sources {
    fn find(directory: &Path, found: &mut Sources) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
                found.insert(name.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = Sources::new();
    find(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100, "the sources were not found");
    found
}

fn module_of(file: &str) -> Module {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// Returns the words and signs of a source, with `::` as one sign. Comments and the contents of
/// string literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let (mut found, mut index) = (Vec::new(), 0);
    while index < chars.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                index += chars[index..].iter().take_while(|c| **c != '\n').count();
            }
            '"' => index = text_end(&chars, index + 1),
            'r' if at(index + 1) == '"'
                || (at(index + 1) == '#' && "#\"".contains(at(index + 2))) =>
            {
                let hashes = chars[index + 1..].iter().take_while(|c| **c == '#').count();
                let end: Vec<char> = ['"'].into_iter().chain(vec!['#'; hashes]).collect();
                index += hashes + 2;
                while index < chars.len() && !chars[index..].starts_with(&end) {
                    index += 1;
                }
                index += end.len();
            }
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                index += chars[index..].iter().take_while(|c| **c != '\'').count() + 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            ':' if at(index + 1) == ':' => {
                found.push("::".to_owned());
                index += 2;
            }
            c if is_word(c) => {
                index += chars[index..].iter().take_while(|c| is_word(**c)).count();
                found.push(chars[start..index].iter().collect());
            }
            c => {
                index += 1;
                if !c.is_whitespace() {
                    found.push(c.to_string());
                }
            }
        }
    }
    found
}

/// Returns the end (exclusive) of the string literal whose contents begin at `index`.
fn text_end(chars: &[char], mut index: usize) -> usize {
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Returns the index after the bracket that closes the one at `index`.
fn closed(tokens: &[String], index: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, token) in tokens[index..].iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + offset + 1;
        }
    }
    tokens.len()
}

/// Returns a source without its test code, and the modules that it declares for tests.
fn product(text: &str) -> (Vec<String>, Vec<String>) {
    let tokens = tokens(text);
    let (mut kept, mut test_modules) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < tokens.len() {
        let is_attribute = tokens[index] == "#" && tokens.get(index + 1).is_some_and(|t| t == "[");
        if !is_attribute {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        let end = closed(&tokens, index + 1);
        let has = |word: &str| tokens[index..end].iter().any(|token| token == word);
        let is_for_tests = has("cfg") && has("test") && !has("not");
        index = end;
        if !is_for_tests {
            continue;
        }
        // Skips the item that follows, with its other attributes.
        while index < tokens.len() {
            match tokens[index].as_str() {
                "mod" if tokens[index + 2] == ";" => test_modules.push(tokens[index + 1].clone()),
                ";" => {
                    index += 1;
                    break;
                }
                "{" => {
                    index = closed(&tokens, index);
                    break;
                }
                "(" | "[" => {
                    index = closed(&tokens, index);
                    continue;
                }
                _ => {}
            }
            index += 1;
        }
    }
    (kept, test_modules)
}

/// Returns the tokens of each file without test code. Files of test modules are left out.
fn products(sources: &Sources) -> BTreeMap<String, Vec<String>> {
    let (mut found, mut tests) = (BTreeMap::new(), BTreeSet::new());
    for (file, text) in sources {
        let (tokens, test_modules) = product(text);
        let module = module_of(file);
        tests.extend(test_modules.into_iter().map(|name| [&module[..], &[name]].concat()));
        found.insert(file.clone(), tokens);
    }
    found.retain(|file, _| {
        let module = module_of(file);
        !(0..=module.len()).any(|length| tests.contains(&module[..length]))
    });
    found
}

/// Collects the paths of a `use` tree, each from its first word.
fn tree(tokens: &[String], prefix: &[String], paths: &mut Vec<Module>) {
    let mut path = prefix.to_vec();
    let mut index = 0;
    while index < tokens.len() {
        match tokens[index].as_str() {
            "{" => {
                let end = closed(tokens, index);
                let inner = &tokens[index + 1..end - 1];
                let mut start = 0;
                while start < inner.len() {
                    let mut stop = start;
                    while stop < inner.len() && inner[stop] != "," {
                        stop = if inner[stop] == "{" { closed(inner, stop) } else { stop + 1 };
                    }
                    tree(&inner[start..stop], &path, paths);
                    start = stop + 1;
                }
                return;
            }
            "::" => {}
            "as" => break,
            word => path.push(word.to_owned()),
        }
        index += 1;
    }
    paths.push(path);
}

/// Returns all paths that a source names, in imports and elsewhere.
fn paths(tokens: &[String]) -> Vec<Module> {
    let (mut found, mut index) = (Vec::new(), 0);
    while index < tokens.len() {
        if tokens[index] == "pub" && tokens.get(index + 1).is_some_and(|token| token == "(") {
            index = closed(tokens, index + 1); // A visibility is no import.
        } else if tokens[index] == "use" {
            let end = index + tokens[index..].iter().take_while(|token| *token != ";").count();
            tree(&tokens[index + 1..end], &[], &mut found);
            index = end;
        } else {
            let is_begun = index == 0 || tokens[index - 1] != "::";
            let mut path = vec![tokens[index].clone()];
            while tokens.get(index + 1).is_some_and(|token| token == "::")
                && let Some(next) = tokens.get(index + 2)
            {
                path.push(next.clone());
                index += 2;
            }
            if is_begun && path.len() > 1 {
                found.push(path);
            }
            index += 1;
        }
    }
    found
}

/// Returns, for each file, the files that it imports.
fn imports(products: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeMap<Module, &String> =
        products.keys().map(|file| (module_of(file), file)).collect();
    let imports_of = |(file, tokens): (&String, &Vec<String>)| {
        let module = module_of(file);
        let resolve = |path: Module| -> Option<String> {
            let supers = path.iter().take_while(|word| *word == "super").count();
            let mut full = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "super" => {
                    let kept = module.len().checked_sub(supers)?;
                    [&module[..kept], &path[supers..]].concat()
                }
                "self" => [&module[..], &path[1..]].concat(),
                first => {
                    let child = [&module[..], &[first.to_owned()]].concat();
                    modules.get(&child)?;
                    [&module[..], &path[..]].concat()
                }
            };
            while !modules.contains_key(&full) {
                full.pop()?;
            }
            modules.get(&full).filter(|found| **found != file).map(|found| (*found).clone())
        };
        (file.clone(), paths(tokens).into_iter().filter_map(resolve).collect())
    };
    products.iter().map(imports_of).collect()
}

/// Returns, for each file that imports itself through others, the shortest circle.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, Vec<String>> {
    let circle = |start: &String| -> Option<(String, Vec<String>)> {
        let mut from: BTreeMap<&String, &String> = BTreeMap::new();
        let mut waiting = VecDeque::from([start]);
        while let Some(file) = waiting.pop_front() {
            for next in imports.get(file).into_iter().flatten() {
                if next == start {
                    let mut way = vec![start.clone(), file.clone()];
                    while let Some(before) = from.get(&way[way.len() - 1]) {
                        way.push((*before).clone());
                    }
                    way.reverse();
                    return Some((start.clone(), way));
                }
                if !from.contains_key(next) {
                    from.insert(next, file);
                    waiting.push_back(next);
                }
            }
        }
        None
    };
    imports.keys().filter_map(circle).collect()
}

/// Returns the files that define each type, in the product's own code.
fn definitions(products: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, tokens) in products {
        let mut index = 0;
        while index < tokens.len() {
            match tokens[index].as_str() {
                // An item inside braces is visible nowhere else, or belongs to a type.
                "{" => index = closed(tokens, index),
                "struct" | "enum" | "trait" | "type" => {
                    found.entry(tokens[index + 1].clone()).or_default().push(file.clone());
                    index += 2;
                }
                _ => index += 1,
            }
        }
    }
    found
}

#[test]
fn no_file_imports_itself_through_others() {
    let circles = circles(&imports(&products(&sources())));
    let ways: Vec<String> = circles.values().map(|way| way.join(" -> ")).collect();
    assert!(ways.is_empty(), "files import themselves: {ways:#?}");
}

#[test]
fn no_two_types_have_one_name() {
    let mut doubled = definitions(&products(&sources()));
    doubled.retain(|_, files| files.len() > 1);
    let named = doubled.iter().map(|(name, files)| format!("{name}: {}", files.join(", ")));
    let named: Vec<String> = named.collect();
    assert!(named.is_empty(), "types of one name: {named:#?}");
}

/// Goal: the rules find each kind of import and of definition, and nothing that only looks like
/// one.
#[test]
fn the_rules_about_files_and_types_see_what_they_should() {
    let planted = [
        ("src/lib.rs", "pub mod a; mod b; #[cfg(test)] mod t;"),
        ("src/a/mod.rs", "mod one; mod two; pub use one::One; fn f() { two::g() }"),
        ("src/a/one.rs", "use crate::{b::{self, B}, c}; pub struct One;"),
        (
            "src/a/two.rs",
            "fn g(x: super::super::b::B) {} #[cfg(test)] mod tests { use super::super::*; }",
        ),
        (
            "src/b.rs",
            "pub(in crate::a) const T: &str = \"crate::a\"; // crate::a\n enum B { A('\"') }",
        ),
        ("src/t.rs", "use crate::a::One; struct One;"),
    ];
    let mut sources: Sources =
        planted.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    let import = |sources: &Sources| imports(&products(sources));
    let names = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect();
    let expected: [(&str, BTreeSet<String>); 5] = [
        ("src/a/mod.rs", names(&["src/a/one.rs", "src/a/two.rs"])),
        ("src/a/one.rs", names(&["src/b.rs", "src/lib.rs"])),
        ("src/a/two.rs", names(&["src/b.rs"])),
        ("src/b.rs", names(&[])),
        ("src/lib.rs", names(&[])),
    ];
    let expected = expected.map(|(file, imports)| (file.to_owned(), imports));
    assert_eq!(import(&sources), expected.into_iter().collect());
    assert!(circles(&import(&sources)).is_empty());
    let twice = |sources: &Sources| {
        let definitions = definitions(&products(sources)).into_iter();
        definitions.filter(|(_, files)| files.len() > 1).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert!(twice(&sources).is_empty());

    sources.insert(
        "src/b.rs".to_owned(),
        "impl X { type Item = u8; } type One = u8; use crate::a::One as O;".into(),
    );
    let found = circles(&import(&sources));
    assert_eq!(found["src/b.rs"].join(" "), "src/b.rs src/a/mod.rs src/a/one.rs src/b.rs");
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(twice(&sources), ["One"]);
}
