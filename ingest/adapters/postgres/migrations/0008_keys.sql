-- Keys over time: in which epoch a cut-off counts, whether each revocation took effect, and to whom a message belongs.

-- A cut-off is a number of the epoch in which the key was retired. Of the epochs before, it cuts nothing off.
alter table store.device_key add column cutoff_epoch bigint;
update store.device_key k set cutoff_epoch = coalesce(
    (select max(c.epoch) from store.closed_ledger c where c.device_no = k.device_no and c.epoch < k.epoch_until), s.epoch)
from store.device_state s where s.device_no = k.device_no and k.seq_cutoff is not null;
alter table store.device_key add check ((seq_cutoff is null) = (cutoff_epoch is null));

-- How far all had come when a key was revoked, read under its device's lock: what is stored under it beyond came after.
create table store.revocation (
    key_no         bigint primary key references store.device_key,
    began_at       timestamptz not null default now(),   -- the act, before it had any lock
    topic_nos      smallint[] not null,
    partitions     integer[] not null,
    next_offsets   bigint[] not null,                -- of each of them
    relinks        bigint not null,                  -- how often messages had left the held lane
    checked_at     timestamptz,                      -- when it was counted what came after: once, a while later
    stored_after   bigint,
    last_stored_at timestamptz,                      -- when the last of them was committed
    check ((checked_at is null) = (stored_after is null))
);
create index on store.revocation (began_at) where checked_at is null;

-- What is stored under a revoked key, from before and from after. Reads all that its device has stored.
create function store.stored_under(revoked_no bigint, out before bigint, out after bigint, out last_at timestamptz) language sql stable as $$
    with revoked as (
        select k.device_no, r.* from store.revocation r join store.device_key k using (key_no) where key_no = revoked_no
    ), mark as (
        select p.* from revoked r cross join unnest(r.topic_nos, r.partitions, r.next_offsets) p (topic_no, partition, next_offset)
    ), relinked as (
        select l.topic_no, l.partition, o.kafka_offset, max(l.relinked_at) as relinked_at
        from revoked r join store.relink l on l.relink_no >= r.relinks cross join unnest(l.offsets) o (kafka_offset) group by 1, 2, 3
    ), stored as (
        select m.topic_no, m.partition, m.kafka_offset, l.relinked_at,
               m.kafka_offset >= coalesce(p.next_offset, 0) or l.relinked_at is not null as late
        from revoked r
        join store.message m on m.device_no = r.device_no and m.key_no = r.key_no
        left join mark p using (topic_no, partition)
        left join relinked l using (topic_no, partition, kafka_offset)
    )
    select count(*) filter (where not late), count(*) filter (where late), max(case when late then coalesce(relinked_at, (
               select b.committed_at from store.batch b
               where b.topic_no = s.topic_no and b.partition = s.partition and b.from_offset <= s.kafka_offset
               order by b.from_offset desc limit 1)) end)
    from stored s
$$;

create or replace view weighbridge.revocation as
select d.device_id, encode(k.kid, 'hex') as kid, k.revoked_at, k.revoked_why, k.compromised_since,
       coalesce(k.stored_before, (select s.before from store.stored_under(k.key_no) s)) as stored_before,
       (select count(*) from store.message m where m.device_no = k.device_no and m.key_no = k.key_no) as stored_now,
       r.began_at, r.checked_at, r.stored_after, r.last_stored_at,
       case when r.checked_at is not null then greatest(k.revoked_at, r.last_stored_at) - r.began_at end as time_to_revoke
from store.device_key k join store.device d using (device_no) left join store.revocation r using (key_no)
where k.state = 'revoked';

create or replace view weighbridge.key as
select d.device_id, encode(k.kid, 'hex') as kid, k.algorithm, k.state, k.epoch_from, k.epoch_until, k.valid_from, k.valid_until,
       k.seq_cutoff, k.enrolled_at, k.revoked_at, k.revoked_why, k.compromised_since, k.cutoff_epoch
from store.device_key k join store.device d using (device_no);

-- To whom a message belongs is asked of the transfers, whenever it is asked: one that is entered late moves no message.
alter table store.vehicle_transfer add column since timestamptz not null default '-infinity';  -- of the tenant's time, up to `at`
update store.vehicle_transfer f set since = p.at
from (select vehicle_no, at, lead(at) over (partition by vehicle_no order by at) as next from store.vehicle_transfer) p
where f.vehicle_no = p.vehicle_no and f.at = p.next;
alter table store.vehicle drop column transferred;

create or replace view weighbridge.message as
select t.topic, m.partition, m.kafka_offset, m.received_at, m.issued_at, m.expires_at, m.time_quality,
       d.device_id, n.tenant, v.vehicle_id, encode(k.kid, 'hex') as kid, k.algorithm, m.cose_alg,
       m.epoch, m.seq, m.boot, s.name as schema, m.samples, m.software, m.configuration, m.digest, m.traceparent,
       j.build, j.engine, j.policy_digest, m.envelope, t.incarnation
from store.message m
join store.topic t using (topic_no)
join store.device d using (device_no)
join store.vehicle v on v.vehicle_no = m.vehicle_no
left join store.vehicle_transfer f on f.vehicle_no = m.vehicle_no
    and least(m.issued_at, m.received_at) >= f.since and least(m.issued_at, m.received_at) < f.at
join store.tenant n on n.tenant_no = coalesce(f.tenant_no, v.tenant_no)
join store.device_key k using (key_no)
join store.schema s on s.fingerprint = m.schema
join store.judged_by j using (judged_by);
alter table store.message drop column tenant_no;
