"""What a run says on its way."""

from federated import Quiet
from rolora.records.schema import RoundRecord
from rolora.running import _told


def test_what_went_wrong_with_no_client_s_update_is_told_after_its_round():
    plain = RoundRecord(
        round=1, phase="B", train_loss=0.5, clients=3, cohort=4, bytes_up=1, bytes_down=1
    )
    heard = []
    quiet = Quiet(finished=lambda record: heard.append(record.round))
    quiet.notice = lambda text: heard.append(text)

    def steps():
        yield plain
        yield plain.changed(round=2, faults=("client 2: it is asked no more",))

    assert [record.round for record in _told(steps(), quiet)] == [1, 2]
    assert heard == [1, 2, "round 2: client 2: it is asked no more"]
