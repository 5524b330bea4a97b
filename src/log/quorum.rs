//! Whether the word of a stream's leader can be believed.
//!
//! A leader that is cut off from its replicas goes on answering questions for ten seconds, while the others elect
//! another one that takes new messages. It acknowledges nothing in that time, but what it says of the stream's end
//! is old. Nobody stands for election before 4 s without a word of the leader: so one that has heard from a
//! majority more recently than that has no rival.

use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;

/// How recently a majority must have been heard. They are heard every second; under an election's least 4 s.
pub const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Whether a leader answered that has heard from a majority of its replicas, itself among them. A stream without
/// a cluster, or with one copy, has nobody to ask.
///
/// Where nobody leads, any server with a copy answers. It stands among the replicas itself, and so does, as heard from
/// just now, whoever it has never heard from: a follower hears only its leader.
pub fn has_majority(cluster: Option<&ClusterInfo>) -> bool {
    let Some(cluster) = cluster else { return true };
    if cluster.leader.as_deref().is_none_or(str::is_empty) {
        return false;
    }
    let heard = cluster
        .replicas
        .iter()
        .filter(|replica| !replica.offline && replica.active <= HEARD_WITHIN)
        .count();
    2 * (heard + 1) > cluster.replicas.len() + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As nats-server 2.15 answers STREAM.INFO, shortened.
    fn cluster(leader: Option<&str>, replicas: &[(bool, u64)]) -> ClusterInfo {
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(offline, ms)| {
                serde_json::json!({"name": "n", "current": true, "offline": offline, "active": ms * 1_000_000})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": "adtally", "leader": leader, "replicas": replicas
        }))
        .unwrap()
    }

    #[test]
    fn a_leader_is_believed_while_a_majority_is_heard() {
        assert!(has_majority(None));
        for (replicas, believed) in [
            (&[][..], true),
            (&[(false, 900), (false, 900)], true),
            (&[(false, 900), (false, 60_000)], true),
            (&[(true, 900), (false, 2_999)], true),
            (&[(false, 3_001), (false, 60_000)], false),
            (&[(true, 10), (true, 10)], false),
            // One of five replicas besides the leader is no majority; two are.
            (&[(false, 1), (true, 1), (true, 1), (true, 1)], false),
            (&[(false, 1), (false, 1), (true, 1), (true, 1)], true),
        ] {
            assert_eq!(
                has_majority(Some(&cluster(Some("n1"), replicas))),
                believed,
                "{replicas:?}"
            );
        }
    }

    #[test]
    fn a_copy_without_a_leader_is_not_believed() {
        // n3 after n1, which led, and n2 were killed: itself, n2 that it never heard from, and n1.
        let replicas = [(false, 0), (false, 0), (false, 4_000)];
        for leader in [None, Some("")] {
            assert!(!has_majority(Some(&cluster(leader, &replicas))));
        }
    }
}
