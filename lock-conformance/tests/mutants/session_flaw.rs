//! [`SessionFlaw`]: a way to break the protocol of sessions, and the case that finds it.

macro_rules! flaws {
    ($($promise:ident $flaw:ident $case:literal)+) => {
        /// A way to break the protocol of sessions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum SessionFlaw {
            /// No flaw: the store itself must pass the suite.
            None,
            $($flaw,)+
        }

        /// All flaws, each with the promise that it breaks and the case that must find it.
        pub(crate) const SESSION_FLAWS: &[(&str, SessionFlaw, &str)] =
            &[$((stringify!($promise), SessionFlaw::$flaw, $case),)+];
    };
}

flaws! {
    P1 SessionAnswersBeforeTheLosses "loss::after_a_break_comes_before_a_longer_belief"
    P1 SessionReportsTheRoundBefore "renewal::of_a_broken_guard_says_that_it_is_lost_and_does_not_take_it_back"
    P1 SessionCountsFromTheAnswer "loss::is_on_time_after_a_renewal_that_was_answered"
    P1 SessionCountsFromItsOpening "loss::is_on_time_when_renewals_hang"
    P1 SessionIsNotExtended "renewal::keeps_a_guard_beyond_its_ttl"
    P1 SessionIsChangedByAskingAgain "unknown::the_same_holder_asks_again_late_and_stays_on_its_session"
    P2 SessionReportsNoLosses "loss::comes_with_the_next_renewal_after_a_break"
    P2 SessionIsLostWithOneLease "loss::comes_with_the_next_renewal_after_a_break"
    P3 SessionDropsWhatALiveClaimOwns "renewal::of_a_session_keeps_what_is_granted_meanwhile"
    P3 SessionDropsWhatWasCarriedLate "renewal::of_a_session_keeps_what_is_granted_meanwhile"
    P3 SessionDropsWhatOthersOwn "renewal::of_a_session_keeps_what_other_sessions_have"
    P3 SessionEndsWithARelease "renewal::of_a_session_keeps_what_is_granted_meanwhile"
    P6 SessionKeepsOrphans "unknown::a_request_that_is_applied_beside_other_locks_is_gone_within_one_ttl"
    P7 SessionNeverEnds "expiry::a_lease_is_kept_while_it_may_be_believed_in_and_freed_afterwards"
}
