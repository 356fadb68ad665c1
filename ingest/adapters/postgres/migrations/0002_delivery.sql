-- What a partition's owner leaves to the next one: by what its log is known again, how many owners died on the same batch,
-- whether the log is broken; and bounds for what is kept of messages that were not accepted.

-- A topic that was deleted and made again is another log, and so is a partition whose end was lost: its offsets come again.
alter table store.topic drop constraint topic_topic_key;
alter table store.topic
    add column incarnation smallint not null default 1,
    add column log_id text,                          -- the topic's id, as the brokers give it
    add unique (topic, incarnation);

alter table store.partition_lease
    add column record_hash    bytea,                 -- of the record before next_offset
    add column attempt_offset bigint,
    add column attempts       integer not null default 0,  -- how many owners took over at attempt_offset, and died
    add column halted_at      timestamptz,
    add column halted_why     text,                  -- not null: the log is broken, and waits for a person
    add column shown_bytes    bigint not null default 0,   -- of what is refused may still be kept,
    add column shown_at       timestamptz not null default 'epoch';  -- as of then, by the broker's clock

-- Each decision of a person about a broken log.
create table store.resumption (
    topic_no      smallint not null references store.topic,
    partition     integer not null,
    next_offset   bigint not null,                   -- where it halted
    halted_why    text not null,
    went_on_in    smallint not null references store.topic,
    went_on_at    bigint not null,
    reason        text not null,
    actor         text not null,
    resumed_at    timestamptz not null default now(),
    primary key (topic_no, partition, next_offset, resumed_at)
);

alter table store.device_state add column held_bytes bigint not null default 0;  -- of the messages that wait and are whole

alter table store.held
    alter column envelope drop not null,             -- null: its device had more than held_bytes_max waiting
    add column envelope_bytes integer;
update store.held set envelope_bytes = length(envelope);
update store.device_state s set held_bytes = h.bytes
from (select device_no, sum(envelope_bytes) as bytes from store.held group by device_no) h where h.device_no = s.device_no;
alter table store.held alter column envelope_bytes set not null;

alter table store.exception alter column envelope drop not null;  -- null: more was refused than is kept

create view weighbridge.partition as
select t.topic, t.incarnation, l.partition, l.next_offset, l.owner_epoch, l.worker, l.taken_at, l.attempts, l.halted_at, l.halted_why
from store.partition_lease l join store.topic t using (topic_no);

create view weighbridge.resumption as
select t.topic, t.incarnation, r.partition, r.next_offset, r.halted_why, n.incarnation as went_on_in, r.went_on_at,
       case when n.topic_no = t.topic_no then r.went_on_at - r.next_offset end as lost,  -- null: in another log, nobody knows
       r.reason, r.actor, r.resumed_at
from store.resumption r join store.topic t using (topic_no) join store.topic n on n.topic_no = r.went_on_in;

create or replace view weighbridge.message as
select t.topic, m.partition, m.kafka_offset, m.received_at, m.issued_at, m.expires_at, m.time_quality,
       d.device_id, n.tenant, v.vehicle_id, encode(k.kid, 'hex') as kid, k.algorithm, m.cose_alg,
       m.epoch, m.seq, m.boot, s.name as schema, m.samples, m.software, m.configuration, m.digest, m.traceparent,
       j.build, j.engine, j.policy_digest, m.envelope, t.incarnation
from store.message m
join store.topic t using (topic_no)
join store.device d using (device_no)
join store.vehicle v on v.vehicle_no = m.vehicle_no
join store.tenant n on n.tenant_no = m.tenant_no
join store.device_key k using (key_no)
join store.schema s on s.fingerprint = m.schema
join store.judged_by j using (judged_by);

create or replace view weighbridge.verdict as
select t.topic, r.partition, r.kafka_offset, r.verdict, r.reason, r.device_id, r.epoch, r.seq, r.received_at, t.incarnation
from (
    select m.topic_no, m.partition, m.kafka_offset, 'accepted' as verdict, null as reason, d.device_id, m.epoch, m.seq, m.received_at
    from store.message m join store.device d using (device_no)
    union all
    select h.topic_no, h.partition, h.kafka_offset, 'held', h.reason, d.device_id, h.epoch, h.seq, h.received_at
    from store.held h join store.device d using (device_no)
    union all
    select e.topic_no, e.partition, e.kafka_offset, e.verdict, e.reason, e.device_id, e.epoch, e.seq, e.received_at
    from store.exception e
) r
join store.topic t using (topic_no);

create or replace view weighbridge.batch as
select t.topic, b.partition, b.from_offset, b.to_offset, b.accepted, b.duplicate, b.held, b.refused, b.skipped, b.committed_at, b.worker,
       t.incarnation
from store.batch b join store.topic t using (topic_no);

create or replace view weighbridge.exception as
select t.topic, e.partition, e.kafka_offset, e.verdict, e.reason, e.detail, e.received_at, e.reached, e.device_id, e.epoch, e.seq,
       e.digest, e.envelope_bytes, e.envelope, t.incarnation
from store.exception e join store.topic t using (topic_no);

create or replace view weighbridge.held as
select t.topic, h.partition, h.kafka_offset, h.reason, h.received_at, h.held_at, d.device_id, h.epoch, h.seq, h.boot, h.digest, h.envelope,
       h.envelope_bytes, t.incarnation
from store.held h join store.topic t using (topic_no) join store.device d using (device_no);
