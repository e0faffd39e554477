//! [`Flaw`]: a way to break a store, the promise that it breaks, and the case that finds it.

macro_rules! flaws {
    ($($promise:ident $flaw:ident $case:literal)+) => {
        /// A way to break a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Flaw {
            /// No flaw: the wrapper itself must pass the suite.
            None,
            $($flaw,)+
        }

        /// All flaws, each with the promise that it breaks and the case that must find it. Other
        /// cases may find it too.
        pub(crate) const FLAWS: &[(&str, Flaw, &str)] = &[$((stringify!($promise), Flaw::$flaw, $case),)+];
    };
}

flaws! {
    P1 KeepsHalfTheTtl "expiry::a_lease_is_kept_while_it_may_be_believed_in_and_freed_afterwards"
    P1 RenewsForLonger "renewal::extends_the_lease_for_as_long_as_it_says"
    P1 RetryKeepsTheOldEnd "expiry::asking_again_gives_a_full_ttl"
    P1 RenewsWithoutExtending "renewal::keeps_a_guard_beyond_its_ttl"
    P2 RenewsWhatIsNotHeld "loss::comes_with_the_next_renewal_after_a_break"
    P2 NeverSaysNotHeld "loss::comes_with_the_next_renewal_after_a_break"
    P2 RefusesRenewals "renewal::keeps_a_guard_beyond_its_ttl"
    P2 AnswersAHundredRenewals "renewal::of_a_thousand_entries_answers_all"
    P2 OneUnknownEntrySpoilsTheRest "renewal::answers_each_entry_of_a_batch_by_itself"
    P3 ReleaseIgnoresTheHolder "release::by_a_stranger_changes_nothing"
    P3 ReleaseIsRepeatedByName "release::by_an_earlier_holder_of_the_same_handle_does_not_free_a_newer_lock"
    P3 RenewalAcquires "renewal::of_a_lock_that_was_never_held_is_refused"
    P3 RenewsWhoeverHolds "renewal::by_a_stranger_is_refused"
    P3 GrantsWhatIsHeld "exclusion::a_held_lock_is_refused_on_every_handle"
    P3 GrantsEveryTenth "exclusion::no_two_tasks_of_any_handles_are_inside_at_once"
    P3 TryExtendsTheLeaseInTheWay "waiting::trying_does_not_extend_the_lease_in_the_way"
    P3 BreakIgnoresWhatWasSeen "inspection::breaking_with_a_stale_view_changes_nothing"
    P3 EvictedHolderUnblocks "inspection::a_revoked_lock_stays_blocked_and_belongs_to_nobody"
    P4 TokenRestartsOnRelease "tokens::rise_across_releases"
    P4 TokenRepeatsAfterTheEnd "tokens::rise_across_ends_of_leases"
    P4 TokenIsAlwaysTheSame "tokens::rise_for_each_of_many_names"
    P4 TokenFalls "tokens::rise_across_releases"
    P4 TokenOfAnotherRealm "tokens::are_of_the_realm_of_the_store"
    P4 RealmIsTheHandles "tokens::the_realm_is_the_same_on_every_handle"
    P4 NewRealmIsTheOld "tokens::a_new_realm_is_another"
    P4 BreakUsesUpNoToken "inspection::breaking_uses_up_a_token"
    P4 RaiseLeavesTheCounter "raising::gives_the_lease_the_token_and_later_leases_greater_ones"
    P4 RaiseLowersTheCounter "raising::below_the_counter_lowers_nothing"
    P4 RaiseLowersTheToken "raising::below_the_token_of_the_lease_is_refused"
    P4 RaiseRefusesTheSame "raising::to_the_same_token_again_changes_nothing"
    P4 RaisesBeyondTheEnd "raising::beyond_what_a_token_can_follow_is_no_success"
    P3 RaisesWhoeverHolds "raising::by_a_stranger_is_refused_and_changes_nothing"
    P3 RaiseAcquires "raising::by_a_stranger_is_refused_and_changes_nothing"
    P3 RaiseSaysRaisedAlways "raising::of_a_lease_that_was_given_back_or_broken_is_refused"
    P1 RaiseRenews "raising::moves_no_end_of_a_lease"
    P4 KeepForgets "keeping::keeps_a_text_for_every_handle"
    P4 KeepIsTheHandles "keeping::keeps_a_text_for_every_handle"
    P3 KeepIgnoresWhatWas "keeping::changes_nothing_if_another_came_first"
    P3 KeepIgnoresTheRealm "keeping::changes_nothing_after_a_new_realm_was_begun"
    P5 KeepRefusesTheSame "keeping::says_yes_again_after_a_lost_reply"
    P5 RetryGetsANewToken "tokens::stay_the_same_when_the_same_holder_asks_again"
    P5 RetryBlocksItself "unknown::the_same_holder_asks_again_and_holds"
    P5 SaysNoEffectThoughApplied "tokens::rise_across_releases"
    P5 RetryLosesTheToken "tokens::stay_the_same_when_the_same_holder_asks_again"
    P6 ReleaseLeavesThePlace "release::by_a_waiter_gives_up_its_place"
    P6 TriesQueue "waiting::trying_writes_nothing_while_another_holds"
    P6 ReleaseOfUnclearClaimsIsIgnored "unknown::a_lost_reply_of_a_try_is_given_back_soon"
    P6 ReleaseDoesNothing "release::frees_the_lock_at_once"
    P6 ReleaseFailsAtWhatIsNotHeld "release::of_a_lock_that_is_not_held_succeeds"
    P6 ReleaseSaysHeldAlways "release::twice_finds_nothing_the_second_time"
    P6 ReleaseSaysNotHeldAlways "release::of_a_guard_says_that_it_was_held"
    P7 LastComeFirstServed "waiting::of_several_handles_is_served_in_order"
    P7 WaitersMoveToTheEnd "waiting::asking_again_keeps_the_place"
    P7 ClaimsTokensAndGivesNone "guarantees::leases_have_tokens_if_and_only_if_tokens_are_claimed"
    P7 ClaimsNoTokensAndGivesThem "guarantees::leases_have_tokens_if_and_only_if_tokens_are_claimed"
    P7 ClaimsToPollAndQueues "guarantees::a_queueing_claim_writes_nothing_where_there_is_no_queue"
    P7 NeverExpires "expiry::a_lease_is_kept_while_it_may_be_believed_in_and_freed_afterwards"
    P7 ShowsAnotherHolder "inspection::shows_the_holder_on_every_handle"
    P7 ShowsNobody "inspection::shows_the_holder_on_every_handle"
    P7 ShowsNoInfo "inspection::shows_what_the_holder_said_of_itself"
    P7 ShowsTooMuchTime "inspection::shows_how_long_the_lease_lasts_and_has_lasted"
    P7 ShowsAnotherToken "inspection::shows_the_token_of_the_lease"
    P7 HidesTheRevoked "inspection::a_revoked_lock_stays_blocked_and_belongs_to_nobody"
    P7 BreakDoesNothing "inspection::breaking_evicts_the_holder_that_was_seen"
    P7 RevokeFreesAtOnce "inspection::a_revoked_lock_stays_blocked_and_belongs_to_nobody"
    P7 NowBlocks "inspection::breaking_now_frees_the_lock_at_once"
    P7 ListIsUnordered "names::are_listed_as_they_are_in_byte_order"
    P7 ListLosesOne "names::are_listed_as_they_are_in_byte_order"
    P7 ListIgnoresAfter "names::are_listed_page_by_page"
    P7 ListIgnoresTheLimit "names::are_listed_page_by_page"
    P8 WaitsForTheEndOfTheLease "waiting::ends_soon_after_a_release"
    P9 NamesFoldCase "names::that_look_alike_are_kept_apart"
    P9 NamesAreCut "names::of_every_length_are_kept_apart"
    P9 NamesEndAtASlash "names::that_look_alike_are_kept_apart"
    P9 NamesAreTrimmed "names::that_look_alike_are_kept_apart"
    P9 NamesAreDecoded "names::that_look_alike_are_kept_apart"
    P9 NamesLoseAccents "names::of_other_alphabets_and_forms_are_kept_apart"
    P9 NamesAreHashedToTwoBytes "names::at_random_are_kept_apart"
}
