-- Who is accused is locked while it is written: that the device exists need not be looked up for each piece of evidence.
alter table store.accusation drop constraint accusation_device_no_fkey;
