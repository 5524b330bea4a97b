//! What a user agent says of itself: whether it is a known crawler, and which class of device it is.
//!
//! Crawlers are those of the pattern list of the npm package `crawler-user-agents` (in `data/`), device classes
//! come from woothee, with the televisions that it takes for phones or computers told apart before it is asked.
//! A user agent is judged once and remembered: fifteen hundred patterns cost some microseconds, and a few hundred
//! user agents make most of the traffic.

use std::sync::{LazyLock, Mutex};

use adtally_streams::event::{Device, TEXT_MAX_BYTES};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::generations::Generations;

/// User agents remembered in one generation; at most twice as many, of [`TEXT_MAX_BYTES`] each, are held.
/// One that has been forgotten is judged anew.
pub const MAX_AGENTS: usize = 8_192;
/// The most memory that the compiled patterns may take.
const PATTERNS_MAX_BYTES: usize = 64 << 20;
/// The vendored list; its licence stands beside it.
const PATTERNS: &str = include_str!("data/crawler-user-agents.txt");

static CRAWLERS: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSetBuilder::new(patterns())
        .size_limit(PATTERNS_MAX_BYTES)
        .dfa_size_limit(PATTERNS_MAX_BYTES)
        .unicode(false)
        .build()
        .expect("the vendored patterns compile, as a test proves")
});

fn patterns() -> impl Iterator<Item = &'static str> {
    PATTERNS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
}

/// What is known of a user agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Whether it is a known crawler.
    pub is_bot: bool,
    /// Its class of device.
    pub device: Device,
}

/// Judges user agents, and remembers its judgements.
#[derive(Debug)]
pub struct Agents {
    known: Mutex<Generations<Box<str>, Agent>>,
}

impl Default for Agents {
    fn default() -> Self {
        LazyLock::force(&CRAWLERS);
        Self {
            known: Mutex::new(Generations::new(MAX_AGENTS)),
        }
    }
}

impl Agents {
    /// Judges a user agent, of which no more than [`TEXT_MAX_BYTES`] are looked at. An empty one is no bot.
    pub fn judge(&self, user_agent: &str) -> Agent {
        let user_agent = &user_agent[..user_agent.floor_char_boundary(TEXT_MAX_BYTES)];
        let known = self.lock().with(user_agent, |agent| *agent);
        if let Some(agent) = known {
            return agent;
        }
        let agent = Agent {
            is_bot: is_crawler(user_agent),
            device: device_class(user_agent),
        };
        let mut known = self.lock();
        // Two requests may have judged the same one at the same time, with the same result.
        if known.with(user_agent, |_| ()).is_none() {
            known.insert(user_agent.into(), agent);
        }
        agent
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations<Box<str>, Agent>> {
        self.known
            .lock()
            .expect("no thread panics while it holds the remembered user agents")
    }
}

/// Whether one of the list's patterns matches, anywhere and with the case as written.
pub fn is_crawler(user_agent: &str) -> bool {
    CRAWLERS.is_match(user_agent.as_bytes())
}

/// What the browsers of televisions, their sticks and consoles say. Most run Android or Linux and would pass for
/// a tablet or a computer.
const TELEVISIONS: [&str; 27] = [
    "smart-tv",
    "smarttv",
    "smart tv",
    "googletv",
    "google tv",
    "android tv",
    "androidtv",
    "apple tv",
    "appletv",
    "hbbtv",
    "netcast",
    "webos.tv",
    "web0s",
    "viera",
    "bravia",
    "aquos",
    "nettv",
    "philipstv",
    "crkey",
    "roku/",
    "; aft",
    "inettvbrowser",
    "dtv",
    "playstation",
    "nintendo wii",
    "nintendo switch",
    "xbox",
];
/// What is held in the hand and runs neither iOS nor Android.
const MOBILES: [&str; 8] = [
    "windows phone",
    "iemobile",
    "opera mini",
    "opera mobi",
    "blackberry",
    "bb10",
    "webos/",
    "kaios",
];
/// Tablets that name neither iPad nor Android.
const TABLETS: [&str; 4] = ["playbook", "kindle", "tablet; rv:", "silk/"];

/// The device class of a user agent; [`Device::Other`] for whatever it does not tell.
pub fn device_class(user_agent: &str) -> Device {
    let lower = user_agent.to_ascii_lowercase();
    let has_any = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    // The handheld PlayStations are no televisions.
    if has_any(&[
        "playstation portable",
        "playstation vita",
        "nintendo 3ds",
        "nintendo ds",
    ]) {
        return Device::Other;
    }
    if has_any(&TELEVISIONS) {
        return Device::Tv;
    }
    let Some(parsed) = woothee::parser::Parser::new().parse(user_agent) else {
        return Device::Other;
    };
    match (parsed.os, parsed.category) {
        (_, "crawler") => Device::Other,
        ("iPhone" | "iPod", _) => Device::Ios,
        ("iPad", _) => Device::Tablet,
        _ if has_any(&MOBILES) => Device::Mobile,
        ("Android", _) if user_agent.contains("Mobile") => Device::Android,
        ("Android", _) => Device::Tablet,
        _ if has_any(&TABLETS) => Device::Tablet,
        (_, "smartphone" | "mobilephone") => Device::Mobile,
        (_, "pc") => Device::Desktop,
        _ => Device::Other,
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
