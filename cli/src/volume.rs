//! `sarsen volume` and `sarsen attachment`: what users create, and who uses it.
use crate::cluster::Where;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};
use crate::size::Size;
use clap::{Args, Subcommand};
use sarsen_types::{AttachmentId, SessionId};

/// Volumes
#[derive(Debug, Args)]
pub struct Volume {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a volume; again with the same name and size it is left as it is
    Create {
        /// Its name: letters, digits, `.`, `_`, `-`
        name: String,
        /// Its size
        #[arg(long)]
        size: Size,
        /// How it is stored
        #[arg(long)]
        policy: Option<String>,
    },
    /// The volumes there are
    List,
    /// One volume, with who uses it
    Show {
        /// Its name
        name: String,
    },
    /// Make a volume larger
    Grow {
        /// Its name
        name: String,
        /// Its new size
        #[arg(long)]
        size: Size,
    },
    /// Delete a volume and its data
    Delete {
        /// Its name
        name: String,
    },
}

fn rows(volumes: &[sarsen_api::Volume]) -> String {
    table(
        &["name", "size", "policy", "attached by"],
        volumes.iter().map(|v| {
            let owners: Vec<&str> = v.attachments.iter().map(|a| a.owner.as_str()).collect();
            vec![v.name.clone(), Size(v.size).to_string(), v.policy.clone(), owners.join(", ")]
        }),
    )
}

impl Volume {
    /// Does it.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        let cluster = place.cluster()?;
        let api = cluster.api();
        let one = |v: &sarsen_api::Volume| rows(std::slice::from_ref(v));
        match self.verb {
            Verb::Create { name, size, policy } => {
                let create = sarsen_api::CreateVolume { name, size: size.0, policy };
                output.show(&api.create_volume(&create).await?, one)
            }
            Verb::List => output.show(&api.volumes().await?[..], rows),
            Verb::Show { name } => output.show(&api.volume(&name).await?, one),
            Verb::Grow { name, size } => output.show(&api.grow_volume(&name, size.0).await?, one),
            Verb::Delete { name } => {
                let found = api.volume(&name).await?;
                api.delete_volume(&name, Some(found.id)).await?;
                output.show(&serde_json::json!({ "deleted": name }), |_| format!("deleted {name}"))
            }
        }
    }
}

/// Who uses volumes
#[derive(Debug, Args)]
pub struct Attachment {
    #[command(subcommand)]
    verb: AttachmentVerb,
}

#[derive(Debug, Subcommand)]
enum AttachmentVerb {
    /// The attachments there are
    List,
    /// End an attachment whose owner has stopped, or, by force, one whose owner is lost
    Detach {
        /// Its id
        id: u64,
        /// Without its owner: it ends when every group refuses its requests
        #[arg(long)]
        force: bool,
    },
}

impl Attachment {
    /// Does it.
    pub async fn run(self, place: &Where, output: Output) -> Outcome {
        let cluster = place.cluster()?;
        match self.verb {
            AttachmentVerb::List => {
                let all = cluster.api().attachments().await?;
                let head = ["id", "volume", "owner", "session", "access", "state"];
                output.list(&all, &head, |a| {
                    let access = if a.read_only { "read-only" } else { "read-write" };
                    let state = if a.is_detaching { "being fenced" } else { "attached" };
                    let (id, session) = (a.id.to_string(), a.session.to_string());
                    vec![id, a.volume.clone(), a.owner.clone(), session, access.into(), state.into()]
                })
            }
            AttachmentVerb::Detach { id, force } => {
                let all = cluster.api().attachments().await?;
                let Some(found) = all.iter().find(|a| a.id == id) else {
                    return Err(
                        Failure::new(format!("there is no attachment {id}")).hint("`sarsen attachment list`")
                    );
                };
                cluster.api().detach(AttachmentId(id), SessionId(found.session), force).await?;
                output
                    .show(&serde_json::json!({ "detached": id }), |_| format!("attachment {id} is detached"))
            }
        }
    }
}
