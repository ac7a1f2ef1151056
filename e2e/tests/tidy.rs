//! The rules of the house that no compiler checks: documents, names, layers, licences, lengths.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of the longest function. A ratchet: it may only be lowered.
const FUNCTION_LINES_MAX: usize = 140;
/// Lines of the longest file. A ratchet: it may only be lowered; the aim is 600.
const FILE_LINES_MAX: usize = 900;
/// Crates whose compiler refuses them a clock, a socket, a thread.
const PURE: [&str; 5] = ["types", "wire", "placement", "replication", "control"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_path_buf()
}

/// Every file of the project, without what builds and git leave.
fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder that was just listed") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    walk(&path, out);
                }
            } else {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &mut out);
    out.sort();
    out
}

fn sources() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source is UTF-8");
            (path, text)
        })
        .collect()
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let silent =
        sources().iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| short(path)).collect();
    none("files without a first line `//! ...`", silent);
}

#[test]
fn every_source_is_part_of_a_crate() {
    let mut dead = Vec::new();
    for (path, _) in sources() {
        let place = short(&path);
        let Some((_, inside)) = place.split_once("/src/") else { continue };
        if inside == "lib.rs" || inside == "main.rs" || inside.starts_with("bin/") {
            continue;
        }
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let (module, folder) = if stem == "mod" {
            let folder = path.parent().expect("a folder");
            (
                folder.file_name().expect("a name").to_string_lossy().into_owned(),
                folder.parent().expect("a folder"),
            )
        } else {
            (stem, path.parent().expect("a folder"))
        };
        let beside = folder.with_extension("rs");
        let named = [folder.join("mod.rs"), folder.join("lib.rs"), folder.join("main.rs"), beside]
            .iter()
            .any(|parent| {
                let Ok(text) = fs::read_to_string(parent) else { return false };
                text.lines().any(|line| {
                    let line = line.trim();
                    line.ends_with(&format!("mod {module};"))
                })
            });
        if !named {
            dead.push(place);
        }
    }
    none("files that no `mod` names", dead);
}

#[test]
fn functions_stay_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            let opens = body.split("fn ").next().is_some_and(|before| {
                before.len() < body.len()
                    && before.split_whitespace().all(|w| {
                        matches!(w, "pub" | "pub(crate)" | "pub(super)" | "async" | "const" | "unsafe")
                    })
            });
            if !opens {
                continue;
            }
            // A function ends where a closing brace stands at its own depth; rustfmt sees to that.
            let end = lines[start..].iter().position(|l| l.len() == indent + 1 && l.trim_start() == "}");
            let one_line = body.ends_with(';') || body.ends_with('}');
            if let (Some(length), false) = (end, one_line)
                && length + 1 > FUNCTION_LINES_MAX
            {
                long.push(format!("{}:{} {} lines", short(&path), start + 1, length + 1));
            }
        }
    }
    none("functions past the ratchet", long);
}

#[test]
fn files_stay_short() {
    let long = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
        .map(|(path, text)| format!("{}: {} lines", short(path), text.lines().count()))
        .collect();
    none("files past the ratchet: which noun in them wants a name?", long);
}

/// The crates named in a section of a manifest.
fn dependencies(manifest: &str, section: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|l| *l != format!("[{section}]")).skip(1);
    let names = lines.take_while(|l| !l.starts_with('[')).filter_map(|l| l.split(['.', ' ', '=']).next());
    names.filter(|n| !n.is_empty() && !n.starts_with('#')).map(|n| n.replace('-', "_")).collect()
}

#[test]
fn no_crate_names_a_dependency_that_it_does_not_use() {
    let all = sources();
    let mut idle = Vec::new();
    // the fuzzers take in files of other crates
    let (own, fuzz) = (root().join("Cargo.toml"), root().join("core/fuzz/Cargo.toml"));
    for manifest in files().iter().filter(|p| p.ends_with("Cargo.toml") && **p != own && **p != fuzz) {
        let (folder, text) =
            (manifest.parent().expect("a folder"), fs::read_to_string(manifest).expect("a manifest"));
        for section in ["dependencies", "dev-dependencies"] {
            let uses = |name: &str| {
                all.iter()
                    .filter(|(path, _)| path.starts_with(folder))
                    .filter(|(path, _)| section != "dependencies" || path.starts_with(folder.join("src")))
                    .any(|(_, text)| {
                        text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
                    })
            };
            let found = dependencies(&text, section).into_iter().filter(|name| !uses(name));
            idle.extend(found.map(|name| format!("{}: {name}", short(manifest))));
        }
    }
    none("dependencies that nobody uses", idle);
}

#[test]
fn one_noun_for_one_idea() {
    // Twins of our words. Whole words, any case unless written in capitals.
    let twins =
        ["OSD", "PG", "resync", "resyncing", "heal", "heals", "healing", "rebuild", "rebuilds", "rebuilding"];
    let mut found = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("e2e/tests/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric()) {
                let is_capitals = |t: &str| t.chars().all(|c| c.is_ascii_uppercase());
                if twins.iter().any(|t| word == *t || (!is_capitals(t) && word.eq_ignore_ascii_case(t))) {
                    found.push(format!("{}:{} {word}", short(&path), number + 1));
                }
            }
        }
    }
    none("words that have another name here", found);
}

#[test]
fn pure_crates_have_no_std() {
    for name in PURE {
        let text = fs::read_to_string(root().join("core").join(name).join("src/lib.rs")).expect("a crate");
        assert!(text.lines().any(|l| l == "#![no_std]"), "core/{name} is not no_std");
        let uses_std = sources()
            .iter()
            .filter(|(path, _)| path.starts_with(root().join("core").join(name).join("src")))
            .filter(|(_, text)| text.lines().any(|l| l.trim_start().starts_with("extern crate std")))
            .map(|(path, _)| short(path))
            .collect();
        none("pure crates that take std back", uses_std);
    }
}

#[test]
fn the_path_of_a_write_exists() {
    let map = fs::read_to_string(root().join("core/README.md")).expect("core/README.md");
    let path = map
        .split("## The path of a write")
        .nth(1)
        .and_then(|rest| rest.split("```").nth(1))
        .expect("a code block under 'The path of a write'");
    let mut steps = 0;
    let mut wrong = Vec::new();
    for line in path.lines().filter(|l| !l.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(file), Some(function)) = (words.next(), words.next()) else {
            wrong.push(format!("not 'file function what': {line}"));
            continue;
        };
        steps += 1;
        match fs::read_to_string(root().join(file)) {
            Err(_) => wrong.push(format!("{file} does not exist")),
            Ok(text) => {
                let name = function.rsplit("::").next().unwrap_or(function);
                let defined = text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"));
                if !defined {
                    wrong.push(format!("{file} has no fn {name}"));
                }
            }
        }
    }
    none("core/README.md, path of a write", wrong);
    assert!(steps >= 8, "the path has {steps} steps only");
    for part in
        ["drivers/nbd/", "core/client/", "core/node/", "core/slice/", "core/replication/", "core/store/"]
    {
        assert!(path.lines().any(|l| l.starts_with(part)), "the path does not lead through {part}");
    }
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // Written in two parts, so that this file does not contain them.
    let traces =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("\"/t", "mp/")];
    let mut found = Vec::new();
    for path in files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if traces.iter().any(|t| line.contains(t)) {
                found.push(format!("{}:{}", short(&path), number + 1));
            }
        }
    }
    none("paths of one machine", found);
}

fn metadata() -> serde_json::Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

/// The quoted strings of a list in `.deny.toml`.
fn deny_list(after: &str, quote_after: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(".deny.toml")).expect(".deny.toml");
    let list =
        text.split(after).nth(1).and_then(|rest| rest.split("\n]").next()).expect("a list in .deny.toml");
    list.lines()
        .filter(|l| l.contains(quote_after))
        .filter_map(|l| l.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dependencies_have_licences_we_take() {
    let allowed = deny_list("\nallow = [", "\"");
    let metadata = metadata();
    // `A/B` is the old way to write `A OR B`.
    let fits = |text: &str| {
        let text = text.replace('/', " OR ").replace(['(', ')'], "");
        text.split(" AND ").all(|all| all.split(" OR ").any(|one| allowed.contains(one.trim())))
    };
    let refused = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(fits))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    none("licences that .deny.toml does not allow", refused);
}

#[test]
fn banned_crates_stay_out() {
    let banned = deny_list("\ndeny = [", "crate");
    assert!(banned.contains("openssl"));
    let metadata = metadata();
    let found = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .filter(|name| banned.contains(*name))
        .map(str::to_owned)
        .collect();
    none("crates that .deny.toml bans", found);
}

#[test]
fn layers_point_down_only() {
    // Lower numbers know nothing of higher ones.
    let level: BTreeMap<&str, u8> = [
        ("types", 0),
        ("buffer", 1),
        ("wire", 1),
        ("placement", 1),
        ("store", 2),
        ("replication", 2),
        ("control", 2),
        ("api", 2),
        ("ring", 3),
        ("slice", 3),
        ("client", 3),
        ("node", 4),
        ("sim", 4),
        ("block", 4),
        ("nbd", 5),
        ("host", 6),
        ("cli", 7),
        ("e2e", 8),
    ]
    .into();
    let of = |name: &str| {
        name.strip_prefix("sarsen-").map(|n| *level.get(n).unwrap_or_else(|| panic!("give {n} a level")))
    };
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let Some(own) = of(package["name"].as_str().expect("a name")) else { continue };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // Tests may look anywhere.
            if !dependency["kind"].is_null() {
                continue;
            }
            if of(dependency["name"].as_str().expect("a name")).is_some_and(|theirs| theirs >= own) {
                wrong.push(format!("{} -> {}", package["name"], dependency["name"]));
            }
        }
    }
    none("dependencies that point up or sideways", wrong);
}
