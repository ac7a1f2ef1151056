//! `sarsen status`, and the lists an operator looks at: groups, pools, policies.
use crate::cluster::{Health, Status, Where};
use crate::failure::{EXIT_TIMEOUT, Failure, Outcome};
use crate::output::Output;
use crate::size::Size;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(200);

/// How the cluster is, and why not better
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Wait until the cluster is at least so
    #[arg(long, value_enum)]
    wait: Option<Wanted>,
    /// Give up waiting after so many seconds
    #[arg(long, default_value_t = 600, requires = "wait")]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    /// Everything up and in sync
    Ok,
    /// Every volume can be read and written
    Degraded,
}

impl StatusArgs {
    /// Does it.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        let cluster = place.cluster()?;
        let until = Instant::now() + Duration::from_secs(self.timeout);
        let bar = ProgressBar::new(1);
        bar.set_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} groups whole  {msg}").expect("a template"),
        );
        let status = loop {
            let status = cluster.status().await;
            let Some(wanted) = self.wait else { break status? };
            if let Ok(status) = &status {
                let is_reached = match wanted {
                    Wanted::Ok => status.health == Health::Ok,
                    Wanted::Degraded => status.health != Health::Unavailable,
                };
                if is_reached {
                    break status.clone();
                }
                bar.set_length(u64::from(status.groups));
                bar.set_position(u64::from(status.groups_whole));
                bar.set_message(status.reasons.join("; "));
            }
            if Instant::now() >= until {
                let what = status.map_or_else(|why| why.to_string(), |s| s.reasons.join("; "));
                return Err(
                    Failure::new(format!("not so within {} s: {what}", self.timeout)).code(EXIT_TIMEOUT)
                );
            }
            tokio::time::sleep(LOOK).await;
        };
        bar.finish_and_clear();
        output.show(&status, screen)
    }
}

fn screen(s: &Status) -> String {
    let mut lines = vec![format!("cluster  {}", s.health)];
    lines.extend(s.reasons.iter().map(|why| format!("         {why}")));
    lines.push(format!("nodes    {} of {} up", s.nodes_up, s.nodes));
    lines.push(format!("drives   {} of {} up", s.drives_up, s.drives));
    lines.push(format!("groups   {} of {} have all their copies in sync", s.groups_whole, s.groups));
    lines.push(format!("volumes  {}", s.volumes));
    lines.push(format!("space    {} of {} used, copies counted", Size(s.used_bytes), Size(s.total_bytes)));
    lines.join("\n")
}

/// Something the cluster has several of.
#[derive(Debug, Args)]
pub struct Listed {
    #[command(subcommand)]
    verb: ListVerb,
}

#[derive(Debug, Subcommand)]
enum ListVerb {
    /// Those there are
    List,
}

impl Listed {
    /// Placement groups.
    pub async fn groups(self, place: &Where, output: Output) -> Outcome {
        let ListVerb::List = self.verb;
        let groups = place.cluster()?.api().groups().await?;
        output.list(&groups, &["id", "epoch", "primary", "in sync", "joining", "members"], |g| {
            let words = |slices: &[String]| slices.join(" ");
            let (id, epoch) = (g.id.to_string(), g.epoch.to_string());
            vec![id, epoch, g.primary.clone(), words(&g.in_sync), words(&g.joining), words(&g.members)]
        })
    }
    /// Pools of drives.
    pub async fn pools(self, place: &Where, output: Output) -> Outcome {
        let ListVerb::List = self.verb;
        let pools = place.cluster()?.api().pools().await?;
        output.list(&pools, &["name", "drives"], |p| {
            let drives: Vec<String> = p.drives.iter().map(u32::to_string).collect();
            vec![p.name.clone(), drives.join(",")]
        })
    }
    /// How volumes are stored.
    pub async fn policies(self, place: &Where, output: Output) -> Outcome {
        let ListVerb::List = self.verb;
        let policies = place.cluster()?.api().policies().await?;
        output.list(&policies, &["name", "pool", "copies", "min copies", "groups"], |p| {
            let (copies, min) = (p.copies.to_string(), p.min_copies.to_string());
            vec![p.name.clone(), p.pool.clone(), copies, min, p.groups.to_string()]
        })
    }
}
