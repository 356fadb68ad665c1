"""Which statements does the store run? All of them, by name; each is bounded by the batch that it serves."""

# Lease ---------------------------------------------------------------------------------------------------------------

# An insert that runs into a conflict uses up a number: over years of take-overs they would run out.
TOPIC_EXISTS = """
    insert into store.topic (topic) select $1
    where not exists (select from store.topic where topic = $1) on conflict do nothing"""

# A partition stays in the incarnation of its lease; a new one belongs to the newest.
TOPIC = """
    select t.topic_no from store.topic t
    left join store.partition_lease l on l.topic_no = t.topic_no and l.partition = $2
    where t.topic = $1 order by l.partition is not null desc, t.incarnation desc limit 1"""

JUDGED_BY_EXISTS = """
    insert into store.judged_by (build, engine, policy_digest, policy) select $1, $2, $3, $4
    where not exists (select from store.judged_by where (build, engine, policy_digest) = ($1, $2, $3))
    on conflict do nothing"""

JUDGED_BY = """
    select judged_by from store.judged_by where (build, engine, policy_digest) = ($1, $2, $3)"""

SCHEMA = """
    insert into store.schema (fingerprint, name, definition) values ($1, $2, $3) on conflict (fingerprint) do nothing"""

LEASE_EXISTS = """
    insert into store.partition_lease (topic_no, partition) values ($1, $2) on conflict do nothing"""

# The pid may be another program's by now: the start time tells.
END_PREVIOUS_OWNER = """
    select pg_terminate_backend(a.pid)
    from store.partition_lease l
    join pg_stat_activity a on a.pid = l.owner_pid and a.backend_start = l.owner_started
    where l.topic_no = $1 and l.partition = $2 and a.pid <> pg_backend_pid()"""

# $4 is the epoch under which this very process owned the partition last: if nobody came in between, nobody died.
TAKE_OVER = """
    update store.partition_lease l set
        owner_epoch = owner_epoch + 1, owner_pid = pg_backend_pid(), worker = $3, taken_at = now(),
        owner_started = (select backend_start from pg_stat_activity where pid = pg_backend_pid()),
        attempts = case when attempt_offset is distinct from next_offset then 1
                        when owner_epoch = $4 then attempts else attempts + 1 end,
        died_offset = case when attempt_offset = next_offset and attempts + (owner_epoch <> $4)::integer > 1
                           then next_offset else died_offset end,
        attempt_offset = next_offset
    from store.topic t
    where t.topic_no = l.topic_no and l.topic_no = $1 and partition = $2
    returning owner_epoch, next_offset, log_id, record_hash, attempts, died_offset, shown_milli, shown_at,
        strangers_window, strangers, seal"""

LOG_ID = """
    update store.topic set log_id = $2 where topic_no = $1 and log_id is null"""

UNHALT = """
    update store.partition_lease set halted_at = null, halted_why = null
    where topic_no = $1 and partition = $2 and owner_epoch = $3 and halted_at is not null"""

HALT = """
    update store.partition_lease set halted_at = coalesce(halted_at, now()), halted_why = $4
    where topic_no = $1 and partition = $2 and owner_epoch = $3"""

# Who gives it up alive counts no more, those who died before still do; and what it may still ask is too late.
RELEASE = """
    update store.partition_lease set attempts = attempts - 1, owner_epoch = owner_epoch + 1
    where topic_no = $1 and partition = $2 and owner_epoch = $3"""

# Resumption ----------------------------------------------------------------------------------------------------------

PARTITIONS = """
    select incarnation, partition, next_offset, worker, date_trunc('second', taken_at)::text as taken_at, attempts,
           date_trunc('second', halted_at)::text as halted_at, halted_why
    from weighbridge.partition p where topic = $1 order by p.halted_at nulls last, incarnation desc, partition"""

HALTED = """
    select * from (
        select l.topic_no, l.next_offset, l.halted_why, t.log_id, t.incarnation
        from store.partition_lease l join store.topic t using (topic_no)
        where t.topic = $1 and l.partition = $2 order by t.incarnation desc limit 1 for no key update of l
    ) current where halted_why is not null"""

# Partitions of one new log share its incarnation, as long as this one was not in it before.
LATER_INCARNATION = """
    select t.topic_no from store.topic t
    where t.topic = $1 and t.incarnation > $3 and t.log_id = $4
    and not exists (select from store.partition_lease l where l.topic_no = t.topic_no and l.partition = $2)
    order by t.incarnation limit 1"""

NEW_INCARNATION = """
    insert into store.topic (topic, incarnation, log_id)
    select $1, max(incarnation) + 1, $2 from store.topic where topic = $1
    returning topic_no"""

LOCK_TOPICS = "lock store.topic in share row exclusive mode"  # two people at once, one incarnation

SKIP = """
    with skipped as (
        insert into store.skipped (topic_no, partition, from_offset, to_offset) values ($1, $2, $3, $4)
    )
    insert into store.batch (topic_no, partition, from_offset, to_offset, accepted, duplicate, held, refused,
                             skipped, owner_epoch, judged_by, worker, links, seal)
    select $1, $2, $3, $4, 0, 0, 0, 0, $4 - $3, 0, 0, $5, '', seal
    from store.partition_lease where topic_no = $1 and partition = $2"""

# The owner that is there now is fenced by it.
GO_ON = """
    update store.partition_lease set
        owner_epoch = owner_epoch + 1, next_offset = $3, halted_at = null, halted_why = null,
        record_hash = case when next_offset = $3 then record_hash end
    where topic_no = $1 and partition = $2"""

RESUMPTION = """
    insert into store.resumption (topic_no, partition, next_offset, halted_why, went_on_in, went_on_at, reason, actor)
    values ($1, $2, $3, $4, $5, $6, $7, $8)"""

# Key ring ------------------------------------------------------------------------------------------------------------

REGISTRY_VERSION = "select version from store.registry"

SENDERS = """
    select d.device_id, d.device_no, d.vehicle_no, v.tenant_no, s.key_version,
           k.key_no, k.kid, k.algorithm, k.public_key, k.state, k.valid_from, k.valid_until, k.seq_cutoff,
           k.cutoff_epoch, k.epoch_from, k.epoch_until
    from store.device d
    join store.device_state s using (device_no)
    join store.vehicle v using (vehicle_no)
    join store.device_key k using (device_no)
    where d.device_id = any($1)"""

REGISTERED_KIDS = """
    select distinct kid from store.device_key where kid = any($1)"""

# Recall --------------------------------------------------------------------------------------------------------------

# Lists that every batch has come as text: of an array's type the driver asks on each connection anew (5 ms of the
# server), and of each of its elements whether it is a collection. In a query of its own, a list is read once, not once
# for each row.
RECALL = """
    select device_no, standing, key_version, epoch, held, held_bytes, boots, seen::text, seen_floor, lowest, highest,
           accepted, suspicion, suspicion_at, software, clock_off_since, rate_milli, rate_at, rolled
    from store.device_state where device_no = any((select $1::text::bigint[])::bigint[])
    order by device_no for no key update"""

RECALL_CLOSED = """
    select device_no, epoch, seen::text, seen_floor, lowest, highest, accepted
    from store.closed_ledger where device_no = any($1)"""

# Each look-up stops at one row and can only probe an index, however much there is under one number. The same content
# carries the same issued_at, so a retransmission is found in one day's partition.
PRIOR_MESSAGES_ISSUED_AT = """
    select n.device_no, n.epoch, n.seq, m.digest, m.boot, true as owner
    from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[]) n (device_no, epoch, seq, issued_at)
    cross join lateral (
        select digest, boot from store.message m
        where (m.device_no, m.epoch, m.seq, m.issued_at) = (n.device_no, n.epoch, n.seq, n.issued_at) limit 1
    ) m"""

PRIOR_MESSAGES = """
    select n.device_no, n.epoch, n.seq, m.digest, m.boot, true as owner
    from unnest($1::bigint[], $2::bigint[], $3::bigint[]) n (device_no, epoch, seq)
    cross join lateral (
        select digest, boot from store.message m
        where (m.device_no, m.epoch, m.seq) = (n.device_no, n.epoch, n.seq) limit 1
    ) m"""

PRIOR_HELD_OWNERS = """
    select n.device_no, n.epoch, n.seq, h.digest, h.boot, true as owner
    from unnest($1::bigint[], $2::bigint[], $3::bigint[]) n (device_no, epoch, seq)
    cross join lateral (
        select digest, boot from store.held h
        where (h.device_no, h.epoch, h.seq) = (n.device_no, n.epoch, n.seq)
        and h.reason not in ('equivocation', 'counter_rollback', 'key_retired') limit 1
    ) h"""

PRIOR_HELD_CONTENTS = """
    select n.device_no, n.epoch, n.seq, n.digest, h.boot, false as owner
    from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) n (device_no, epoch, seq, digest)
    cross join lateral (
        select boot from store.held h
        where (h.device_no, h.epoch, h.seq, h.digest) = (n.device_no, n.epoch, n.seq, n.digest)
        and h.reason in ('equivocation', 'counter_rollback', 'key_retired') limit 1
    ) h"""

KNOWN_CONTENTS = """
    select a.device_no, a.digest from store.accusation a
    join unnest($1::bigint[], $2::bytea[]) n (device_no, digest) using (device_no, digest)"""

# In the order of the cohorts, after the device rows: two batches that count the same cohort count one after the other.
LOCK_COHORT = "select pg_advisory_xact_lock(hashtextextended($2, $1))"

TRIPS = """
    select received_at from store.accusation
    where tenant_no = $1 and software = $2 and after = 'quarantined' and before <> 'quarantined'
    order by received_at desc limit 20000"""

COHORT_DEVICES = """
    select count(*) from (
        select from store.device_state s join store.device d using (device_no) join store.vehicle v using (vehicle_no)
        where s.software = $2 and v.tenant_no = $1 limit 200000
    ) cohort"""

SHARES = """
    select tenant_no, rate_milli, rate_at from store.share
    where topic_no = $1 and partition = $2 and tenant_no = any((select $3::text::integer[])::integer[])"""

# Commit --------------------------------------------------------------------------------------------------------------

UPDATE_DEVICES = """
    update store.device_state s set
        held = u.held, held_bytes = u.held_bytes, boots = u.boots,
        seen = u.seen::int8multirange, seen_floor = u.seen_floor,
        lowest = u.lowest, highest = u.highest, accepted = u.accepted,
        standing = u.standing, suspicion = u.suspicion, suspicion_at = u.suspicion_at, software = u.software,
        clock_off_since = u.clock_off_since, rate_milli = u.rate_milli, rate_at = u.rate_at, rolled = u.rolled
    from unnest($1::store.changed_device[]) u where s.device_no = u.device_no"""

UPDATE_CLOSED = """
    update store.closed_ledger c set
        seen = u.seen::int8multirange, seen_floor = u.seen_floor,
        lowest = u.lowest, highest = u.highest, accepted = u.accepted
    from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        u (device_no, epoch, seen, seen_floor, lowest, highest, accepted)
    where c.device_no = u.device_no and c.epoch = u.epoch"""

# The batch's summary, the shares that it charged, and the lease: one row of that, or we are fenced.
CLOSE = """
    with batch as (
        insert into store.batch (topic_no, partition, owner_epoch, from_offset, to_offset, accepted, duplicate, held,
                                 refused, skipped, judged_by, worker, links, seal)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ), share as (
        insert into store.share (topic_no, partition, tenant_no, rate_milli, rate_at)
        select $1, $2, tenant_no, rate_milli, to_timestamp(rate_at_ms / 1000.0)
        from unnest($15::text::integer[], $16::text::bigint[], $17::text::bigint[])
            u (tenant_no, rate_milli, rate_at_ms)
        on conflict (topic_no, partition, tenant_no)
        do update set rate_milli = excluded.rate_milli, rate_at = excluded.rate_at
    )
    update store.partition_lease set next_offset = $5, seal = $14, record_hash = $18, shown_milli = $19, shown_at = $20,
        strangers_window = $21, strangers = $22, judged_to = greatest(judged_to, $23)
    where topic_no = $1 and partition = $2 and owner_epoch = $3 and next_offset = $4"""

SKIPPED = """
    insert into store.skipped (topic_no, partition, from_offset, to_offset)
    select $1, $2, * from unnest($3::bigint[], $4::bigint[])"""

# Alerts --------------------------------------------------------------------------------------------------------------

# Whose the number was that somebody else used: stored, or held.
OWNERS = """
    select n.device_no, n.epoch, n.seq, encode(o.digest, 'hex') as digest, t.topic, t.incarnation, o.partition,
           o.kafka_offset
    from unnest($1::bigint[], $2::bigint[], $3::bigint[]) n (device_no, epoch, seq)
    cross join lateral (
        (select digest, topic_no, partition, kafka_offset from store.message m
         where (m.device_no, m.epoch, m.seq) = (n.device_no, n.epoch, n.seq) limit 1)
        union all
        (select digest, topic_no, partition, kafka_offset from store.held h
         where (h.device_no, h.epoch, h.seq) = (n.device_no, n.epoch, n.seq)
         and h.reason not in ('equivocation', 'counter_rollback', 'key_retired') limit 1)
        limit 1
    ) o join store.topic t using (topic_no)"""

# In log order: those of a device are written under its row's lock, so their numbers are in the order of the commits.
# No two transactions write the same one at the same time, but for one whose lease was taken away.
RAISE = """
    insert into store.alert (alert_id, kind, subject, tenant_no, raised_at, topic_no, partition, kafka_offset, evidence,
                             judged_by)
    select alert_id, kind, subject, tenant_no, raised_at, $6, partition, kafka_offset, evidence::jsonb, $7
    from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::timestamptz[], $8::integer[], $9::bigint[],
                $10::text[]) with ordinality
        u (alert_id, kind, subject, tenant_no, raised_at, partition, kafka_offset, evidence, at)
    order by u.at on conflict (alert_id) do nothing"""

# Days ----------------------------------------------------------------------------------------------------------------

MISSING_DAYS = """
    select parent, day::date as day
    from (select unnest($1::text[]) as parent, $3::integer as back union all select unnest($2::text[]), 1) p,
         (select (now() at time zone 'UTC')::date as today) t,
         generate_series(today - back, today + $4::integer, interval '1 day') day
    where to_regclass('store.' || parent || to_char(day, '_YYYYMMDD')) is null
    order by parent, day"""

PREPARE_DAY = "select store.prepare_day($1, $2)"
