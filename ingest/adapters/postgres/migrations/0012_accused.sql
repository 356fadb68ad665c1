-- `suspicion_at` says when a device was last accused, whatever people decided since: one that never was need not be asked
-- about what has spoken against it.

update store.device_state s set suspicion_at = a.last
from (select device_no, max(received_at) as last from store.accusation group by device_no) a
where s.device_no = a.device_no and s.suspicion_at < a.last;
