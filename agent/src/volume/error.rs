//! What can go wrong in the volume, and the one table that says which errno a program sees.

use super::store::StoreError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No such name, or an inode the kernel should not know any more.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A path component is not a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The operation needs something that is not a directory.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Somebody else replaced the object: this inode is an old version of the file.
    #[error("the object was changed by somebody else")]
    Stale,
    /// The target of a link that another tool stored is none.
    #[error("not the target of a link")]
    BadTarget,
    /// The name has over 255 bytes, or the key over 1,024.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// No extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// Nothing there: the offset is past the end, or past the last byte that is data.
    #[error("no data at or after that offset")]
    PastEnd,
    /// S3 takes 2 KiB of metadata an object.
    #[error("the attributes do not fit in the object's metadata")]
    TooManyAttributes,
    /// Something that is optional, and left out.
    #[error("{0} are not supported")]
    NotSupported(&'static str),
    /// S3 cannot hold this: hard links.
    #[error("{0} cannot be kept in S3")]
    CannotBeKept(&'static str),
    /// The kernel named a handle that is not open, or not open for this.
    #[error("the file handle is not open for this")]
    BadHandle,
    /// Too many open files.
    #[error("too many open files in the volume")]
    TooManyHandles,
    /// The dirty limit is reached and nothing could be uploaded in time.
    #[error("too much data waits to be uploaded")]
    DirtyLimit,
    /// A wait reached its limit.
    #[error("S3 did not answer in time")]
    TimedOut,
    /// An earlier write of this file could not be uploaded.
    #[error("not uploaded: {0}")]
    NotUploaded(String),
    /// The volume is being taken down.
    #[error("the volume is closing")]
    Closing,
    /// S3 said no, or nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache disk said no.
    #[error("cache: {0}")]
    Local(#[from] std::io::Error),
}

impl VolumeError {
    /// The errno a program sees. Access denied is EACCES, a full cache disk ENOSPC, S3 out of reach EIO.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::Stale => libc::ESTALE,
            Self::BadTarget => libc::EIO,
            Self::NoAttribute => libc::ENODATA,
            Self::PastEnd => libc::ENXIO,
            Self::TooManyAttributes => libc::ENOSPC,
            Self::NotSupported(_) => libc::EOPNOTSUPP,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::Invalid(_) => libc::EINVAL,
            Self::CannotBeKept(_) => libc::EPERM,
            Self::BadHandle => libc::EBADF,
            Self::TooManyHandles => libc::ENFILE,
            Self::DirtyLimit => libc::ENOSPC,
            Self::TimedOut => libc::EIO,
            Self::NotUploaded(_) => libc::EIO,
            Self::Closing => libc::EIO,
            Self::Store(error) => store_errno(error),
            Self::Local(error) => local_errno(error),
        }
    }
}

fn store_errno(error: &StoreError) -> i32 {
    match error {
        StoreError::NotFound(_) => libc::ENOENT,
        StoreError::Conflict(_) => libc::ESTALE,
        StoreError::Denied(_, _) => libc::EACCES,
        StoreError::Refused(_, _) => libc::EIO,
        StoreError::Transient(_, _) => libc::EIO,
        StoreError::Local(_) => libc::EIO,
    }
}

fn local_errno(error: &std::io::Error) -> i32 {
    match error.raw_os_error() {
        Some(code @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EINVAL)) => code,
        Some(_) | None => libc::EIO,
    }
}

/// Shorthand for everything in the volume.
pub type Result<T> = std::result::Result<T, VolumeError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_the_errno_they_expect() {
        let table: Vec<(VolumeError, i32)> = vec![
            (VolumeError::NotEmpty, libc::ENOTEMPTY),
            (VolumeError::Stale, libc::ESTALE),
            (VolumeError::CannotBeKept("hard links"), libc::EPERM),
            (VolumeError::NoAttribute, libc::ENODATA),
            (VolumeError::TooManyAttributes, libc::ENOSPC),
            (VolumeError::NotSupported("these"), libc::ENOTSUP),
            (VolumeError::DirtyLimit, libc::ENOSPC),
            (StoreError::Denied("k".into(), "no".into()).into(), libc::EACCES),
            (StoreError::Transient("k".into(), "503".into()).into(), libc::EIO),
            (StoreError::Conflict("k".into()).into(), libc::ESTALE),
            (std::io::Error::from_raw_os_error(libc::ENOSPC).into(), libc::ENOSPC),
            (std::io::Error::from_raw_os_error(libc::EACCES).into(), libc::EIO),
        ];
        for (error, errno) in table {
            assert_eq!(error.errno(), errno, "{error}");
        }
    }
}
