//! What the documentation names is there: metrics, settings, files, headings and targets of make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Every page, by its path in the repository.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![PathBuf::from("README.md")];
    for folder in ["docs", "docs/runbook"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let names = entries.map(|e| Path::new(folder).join(e.unwrap().file_name()));
        paths.extend(names.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    assert!(paths.len() > 15, "{paths:?}");
    let text = |path: PathBuf| {
        let text = read(&path);
        (path, text)
    };
    paths.into_iter().map(text).collect()
}

/// The first group of every match.
fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern
        .captures_iter(text)
        .map(|c| c[1].to_owned())
        .collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let metrics = found(r#""(adtally_\w+)""#, &read("src/metric_names.rs"));
    for (page, text) in pages() {
        let named = found(r"\b(adtally_[a-z_]+)\b", &text);
        let unknown: Vec<_> = named.difference(&metrics).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", page.display());
    }
}

#[test]
fn the_table_of_settings_has_each_of_them_with_its_variable() {
    let settings = found(r#"\bs\(\s*"([a-z_.]+)","#, &read("src/config/settings.rs"));
    let readme = read("README.md");
    let rows = Regex::new(r"(?m)^\| `([a-z_.]+)` \| `(ADTALLY_[A-Z_]+)`").unwrap();
    let mut described = BTreeSet::new();
    for row in rows.captures_iter(&readme) {
        let variable = format!("ADTALLY_{}", row[1].replace('.', "_").to_uppercase());
        assert_eq!(row[2], variable);
        described.insert(row[1].to_owned());
    }
    assert!(settings.len() > 40, "{settings:?}");
    assert_eq!(described, settings);
}

#[test]
fn every_link_leads_somewhere() {
    for (page, text) in pages() {
        for link in found(r"\]\(([^)]+)\)", &text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let at = root().join(&target);
            assert!(at.exists(), "{}: {link}", page.display());
            let headings = found(r"(?m)^#+ (.+)$", &read(&target));
            let known = headings.iter().any(|h| anchor(h) == heading);
            assert!(heading.is_empty() || known, "{}: {link}", page.display());
        }
    }
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(
        |c: char| !c.is_ascii_alphanumeric() && c != ' ' && c != '-',
        "",
    );
    kept.replace(' ', "-")
}

#[test]
fn every_file_and_every_target_of_make_that_is_named_exists() {
    let targets = found(r"(?m)^([a-z-]+):", &read("Makefile"));
    for (page, text) in pages() {
        for path in found(
            r"`((?:src|tests|projections|streams|archive|nats|docs|tools|fuzz)/[\w./-]+)`",
            &text,
        ) {
            assert!(root().join(&path).exists(), "{}: {path}", page.display());
        }
        for target in found(r"`make ([a-z-]+)", &text) {
            assert!(targets.contains(&target), "{}: {target}", page.display());
        }
    }
}
