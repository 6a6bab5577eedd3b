//! Why a request goes where it goes: every candidate of the host with the reason it lost.
