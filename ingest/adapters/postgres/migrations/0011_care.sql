-- Where an owner died without a commit, and so how far the next ones are to be careful: a commit on the way there does not
-- make a message behind it harmless.

alter table store.partition_lease add column died_offset bigint;  -- the last such place; null: none
update store.partition_lease set died_offset = attempt_offset where attempts > 1;
