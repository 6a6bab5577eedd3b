//! Why a datagram went nowhere: the label of `sluicegate_udp_dropped_total`.

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Dropped {
    /// The client is in none of the source ranges.
    SourceDenied,
    /// The Bind has as many flows as it may have, and each has shown that somebody is there.
    TooMany,
    /// Every endpoint has as many flows as it may have.
    EndpointsFull,
    /// No endpoint may be used.
    NoEndpoint,
    /// Endpoints are to see the client's address, and none is of its family.
    OtherFamily,
    /// Every endpoint that was tried refused.
    Refused,
    /// The endpoint is this gateway itself, or the datagram may go no hop further.
    Loop,
    /// The backend does not exist.
    BackendNotFound,
    /// A setting of the route is invalid, so it is closed.
    InvalidSetting,
    /// The route was removed.
    NoRoute,
    /// It was larger than a datagram can be.
    TooLarge,
    /// The kernel had no room to send it, or file descriptors or ports had run out.
    NoRoom,
    /// The client cannot be reached.
    ClientUnreachable,
    /// The answer is too large for a client that may be somebody else's address.
    Amplification,
}

impl Dropped {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 14] = [
        Self::SourceDenied,
        Self::TooMany,
        Self::EndpointsFull,
        Self::NoEndpoint,
        Self::OtherFamily,
        Self::Refused,
        Self::Loop,
        Self::BackendNotFound,
        Self::InvalidSetting,
        Self::NoRoute,
        Self::TooLarge,
        Self::NoRoom,
        Self::ClientUnreachable,
        Self::Amplification,
    ];

    /// Position in [`Self::ALL`]. Not stable between releases.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// CamelCase reason code, in metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::SourceDenied => "SourceDenied",
            Self::TooMany => "TooMany",
            Self::EndpointsFull => "EndpointsFull",
            Self::NoEndpoint => "NoEndpoint",
            Self::OtherFamily => "OtherFamily",
            Self::Refused => "Refused",
            Self::Loop => "Loop",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidSetting => "InvalidSetting",
            Self::NoRoute => "NoRoute",
            Self::TooLarge => "TooLarge",
            Self::NoRoom => "NoRoom",
            Self::ClientUnreachable => "ClientUnreachable",
            Self::Amplification => "Amplification",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dropped;

    #[test]
    fn the_index_of_a_reason_is_its_position_among_all() {
        for (position, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), position, "{}", reason.code());
        }
    }
}
