//! A cluster as its API shows it: which nodes to ask, with which token, and failures in words.
use crate::failure::{EXIT_UNREACHABLE, Failure, Outcome};
use sarsen_api::{ApiError, Client};
pub use sarsen_api::{Health, Status};

/// Where nodes are asked when nothing else is said.
const API_DEFAULT: &str = "http://127.0.0.1:21000";

/// Where the cluster is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct Where {
    /// URLs of nodes, separated by commas; any answers, a dead one is skipped
    #[arg(long, env = "SARSEN_API", global = true, value_name = "URL,...", default_value = API_DEFAULT)]
    pub api_url: String,
    /// The administrator's token, where the cluster has a key
    #[arg(long, env = "SARSEN_TOKEN", global = true, hide_env_values = true)]
    pub token: Option<String>,
}

impl Where {
    /// A client of it; asks nobody yet.
    pub fn cluster(&self) -> Outcome<Cluster> {
        Ok(Cluster(Client::from_list(&self.api_url, self.token.clone())?))
    }
}

/// A client of the API that fails in words of ours.
pub struct Cluster(Client);

impl Cluster {
    /// The cluster of `sarsen dev`: open, on this machine.
    pub fn dev(urls: Vec<String>) -> Cluster {
        Cluster(Client::new(urls, None).expect("addresses of this machine are URLs"))
    }
    /// The API itself.
    pub fn api(&self) -> &Client {
        &self.0
    }
    /// Whether some node answers.
    pub async fn is_answering(&self) -> bool {
        self.0.is_answering().await
    }
    /// Its nodes.
    pub async fn nodes(&self) -> Outcome<Vec<sarsen_api::Node>> {
        Ok(self.0.nodes().await?)
    }
    /// Its drives.
    pub async fn drives(&self) -> Outcome<Vec<sarsen_api::Drive>> {
        Ok(self.0.drives().await?)
    }
    /// How it is.
    pub async fn status(&self) -> Outcome<Status> {
        Ok(self.0.status().await?)
    }
    /// Its volumes.
    pub async fn volumes(&self) -> Outcome<Vec<sarsen_api::Volume>> {
        Ok(self.0.volumes().await?)
    }
    /// Makes a volume; one of that name and size is left as it is.
    pub async fn create_volume(&self, name: &str, size: u64) -> Outcome<sarsen_api::Volume> {
        let create = sarsen_api::CreateVolume { name: name.to_owned(), size, policy: None };
        Ok(self.0.create_volume(&create).await?)
    }
}

impl From<ApiError> for Failure {
    fn from(why: ApiError) -> Failure {
        let failure = Failure::new(why.to_string());
        match why {
            ApiError::Refused { body, .. } => match body.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
            ApiError::Unreachable { .. } => failure
                .hint("name nodes that are up with --api-url or SARSEN_API; `sarsen dev` prints its own")
                .code(EXIT_UNREACHABLE),
            _ => failure,
        }
    }
}
