//! `sarsen drive forget`: the operator's word that a drive is gone for good (R28).
use crate::cluster::Cluster;
use crate::failure::{EXIT_TIMEOUT, Failure, Outcome};
use crate::output::Output;
use clap::Args;
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// Between two looks at who is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Give up a drive that is gone for good: it comes back only blank, and its groups go on without it
#[derive(Debug, Args)]
pub struct Forget {
    /// The drive's number
    id: u32,
    /// It is lost: there is no other reason yet
    #[arg(long, required = true)]
    lost: bool,
    /// Its server is off, or can be reached by nobody: hosts need not say that they use it no more
    #[arg(long)]
    powered_off: bool,
    /// Also when it has the only complete copy of groups, which are then served only as somebody accepts them
    #[arg(long)]
    yes: bool,
    /// Give up waiting for hosts after so many seconds; the drive stays given up
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

impl Forget {
    /// Does it.
    pub async fn run(self, cluster: &Cluster, output: Output) -> Outcome {
        let id = self.id;
        let drives = cluster.drives().await?;
        let sole = drives.iter().find(|d| d.id == id).map(|d| d.sole_groups.clone()).unwrap_or_default();
        if !self.yes && !sole.is_empty() {
            let what = format!("drive {id} has the only complete copy of groups {}", names(&sole));
            return Err(Failure::new(what).hint(
                "bring it back if you can; with --yes what only it has is lost, and `sarsen status` says what to accept",
            ));
        }
        cluster.api().forget_drive(id, &sole, self.powered_off).await?;
        self.wait(cluster, &sole).await?;
        let done = serde_json::json!({ "forgotten": id, "lost_groups": sole });
        output.show(&done, |_| match sole.is_empty() {
            true => format!("drive {id} is forgotten; nothing is lost"),
            false => format!(
                "drive {id} is forgotten; groups {} wait for an operator: `sarsen status`",
                names(&sole)
            ),
        })
    }

    /// Until no host can use it any more.
    async fn wait(&self, cluster: &Cluster, named: &[u32]) -> Outcome {
        let until = Instant::now() + Duration::from_secs(self.timeout);
        let spinner = ProgressBar::new_spinner();
        loop {
            let drives = cluster.drives().await?;
            let Some(drive) = drives.iter().find(|d| d.id == self.id) else { break };
            let more: Vec<u32> = drive.sole_groups.iter().copied().filter(|g| !named.contains(g)).collect();
            if !more.is_empty() {
                let what = format!(
                    "drive {} is given up, but stays: it has the only complete copy of groups {} by now",
                    self.id,
                    names(&more)
                );
                return Err(Failure::new(what)
                    .hint("bring another copy back if you can; else say it again, with --yes"));
            }
            let waits = drive.waits_for.join(", ");
            if Instant::now() >= until {
                let what = format!("drive {} is given up, but may still be used by {waits}", self.id);
                return Err(Failure::new(what).code(EXIT_TIMEOUT).hint(
                    "detach a host that is gone (`sarsen attachment detach ID --force`), or say --powered-off if it is",
                ));
            }
            spinner.set_message(format!("waiting for {waits}"));
            spinner.tick();
            tokio::time::sleep(LOOK).await;
        }
        spinner.finish_and_clear();
        Ok(())
    }
}

/// Groups by number.
pub fn names(groups: &[u32]) -> String {
    groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
