//! `sarsen event`: what happened, and what happens.
use crate::cluster::Where;
use crate::failure::Outcome;
use crate::output::Output;
use clap::{Args, Subcommand};
use sarsen_api::Event as Happened;

/// What happened
#[derive(Debug, Args)]
pub struct Event {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What the cluster remembers
    List,
    /// What happens from now on, until interrupted
    Watch {
        /// Begins after the event of this number
        #[arg(long)]
        after: Option<u64>,
    },
}

impl Event {
    /// Does what the verb says.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        match self.verb {
            Verb::List => list(place, output).await,
            Verb::Watch { after } => watch(place, output, after).await,
        }
    }
}

async fn list(place: &Where, output: Output) -> Outcome {
    let events = place.cluster()?.api().events(0).await?;
    output.list(&events, &["number", "at (ms since 1970)", "what"], |e| {
        vec![e.number.to_string(), e.at_ms.to_string(), e.text.clone()]
    })
}

async fn watch(place: &Where, output: Output, after: Option<u64>) -> Outcome {
    let cluster = place.cluster()?;
    let last =
        async || Ok::<_, sarsen_api::ApiError>(cluster.api().events(0).await?.last().map_or(0, |e| e.number));
    let mut after = match after {
        Some(after) => after,
        None => last().await?,
    };
    loop {
        for event in cluster.api().watch(after).await? {
            after = event.number;
            output.show(&event, |e: &Happened| format!("{} {} {}", e.number, e.at_ms, e.text))?;
        }
    }
}
