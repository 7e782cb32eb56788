//! The other forms of a directory's marker that may be in a bucket: an object of the bare name with a directory's type
//! (s3fs before 1.63), and Hadoop's `NAME_$folder$`. They are shown, never written, and go when the directory changes.

use crate::volume::Volume;
use crate::volume::attr;
use crate::volume::store::{Condition, ObjectInfo, StoreError};
use crate::volume::version::folder_key;

type Result<T> = std::result::Result<T, StoreError>;

impl Volume {
    /// Removes a directory's markers of other forms.
    pub(super) async fn remove_other_forms(&self, path: &str) -> Result<()> {
        let forms = self.other_forms(path).await?;
        self.remove_forms(forms).await
    }

    pub(super) async fn remove_forms(&self, forms: Vec<(String, ObjectInfo)>) -> Result<()> {
        for (key, info) in forms {
            ignore_conflict(self.delete_version(&key, &info.etag).await)?;
        }
        Ok(())
    }

    /// Gives a directory that was moved a marker of our form in place of others.
    pub(super) async fn move_other_forms(&self, from: &str, to: &str) -> Result<()> {
        for (key, info) in self.other_forms(from).await? {
            let mut headers = info.headers.clone();
            headers.content_type = Some(attr::DIRECTORY_TYPE.to_owned());
            ignore_conflict(self.put_empty(to, &headers, &Condition::Absent).await.map(drop))?;
            ignore_conflict(self.delete_version(&key, &info.etag).await)?;
        }
        Ok(())
    }

    pub(super) async fn other_forms(&self, path: &str) -> Result<Vec<(String, ObjectInfo)>> {
        let mut found = Vec::new();
        // The root's marker has no name that could be bare.
        if path.is_empty() {
            return Ok(found);
        }
        if let Some(info) = self.look(path).await?.filter(attr::is_directory) {
            found.push((path.to_owned(), info));
        }
        if self.options.compat_dir {
            let key = folder_key(path);
            found.extend(self.look(&key).await?.map(|info| (key, info)));
        }
        Ok(found)
    }
}

fn ignore_conflict(result: Result<()>) -> Result<()> {
    match result {
        Err(StoreError::Conflict(_)) => Ok(()),
        result => result,
    }
}
