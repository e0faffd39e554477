//! The diagnosis of a quorum: its own findings, and those of its members.

use super::*;

fn with_code<'a>(findings: &'a [Finding], code: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.code == code).collect()
}

#[tokio::test(start_paused = true)]
async fn a_whole_quorum_has_findings_of_its_own_and_of_each_member() {
    let fixture = Fixture::of(3).await;
    let findings = fixture.locks().diagnose().await.unwrap();
    assert!(findings.iter().all(|finding| finding.severity == Severity::Info), "{findings:?}");
    let own: Vec<_> = findings.iter().filter(|finding| finding.subject.is_none()).map(|finding| finding.code).collect();
    assert_eq!(own, ["majority", "realm"]);
    for member in ["member 1", "member 2", "member 3"] {
        let of_member = findings.iter().filter(|finding| finding.subject.as_deref() == Some(member));
        let codes: Vec<_> = of_member.map(|finding| finding.code).collect();
        assert_eq!(codes.split_first(), Some((&"vote", MemoryStore::FINDING_CODES)), "{member}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_fail_or_hang_are_findings_and_no_error_of_the_whole() {
    for step in [Disturbance::Fail, Disturbance::Hang] {
        for (down, severity) in [(1, Severity::Warning), (2, Severity::Error), (3, Severity::Error)] {
            let fixture = Fixture::of(3).await;
            fixture.always(0..down, &[Call::Diagnose], step);
            let findings = fixture.locks().diagnose().await.unwrap();
            let votes: Vec<_> = with_code(&findings, "vote").iter().map(|finding| finding.severity).collect();
            let expected = (0..3).map(|at| if at < down { Severity::Warning } else { Severity::Info });
            assert_eq!(votes, expected.collect::<Vec<_>>(), "{down} {step:?}");
            let majority = with_code(&findings, "majority")[0];
            assert_eq!(majority.severity, severity, "{majority}");
            assert_eq!(with_code(&findings, "scope").len(), 3 - down);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_a_member_is_found_with_its_name() {
    let fixture = Fixture::of(3).await;
    fixture.memory[1].forget();
    let findings = fixture.quorum.diagnose().await.unwrap();
    let forgetful: Vec<_> =
        with_code(&findings, "retention").into_iter().filter(|finding| finding.severity > Severity::Info).collect();
    assert_eq!(forgetful.len(), 1);
    assert_eq!(forgetful[0].subject.as_deref(), Some("member 2"));
}
