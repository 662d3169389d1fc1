;; See guest.rs, which fills in what is in braces.
(module
  {imports}
  (type $op (func))
  (memory (export "memory") 8 16)
  (table funcref (elem {table}))
  (global $pc (mut i32) (i32.const 0)) (global $end (mut i32) (i32.const 0))
  (global $program (mut i32) (i32.const 0)) (global $slot (mut i32) (i32.const 0))
  (global $heap (mut i32) (i32.const 8192)) (global $how (mut i32) (i32.const 0))
  (global $result (mut i32) (i32.const 512))

  ;; Where the host puts what it returns: honest, or as the program chose.
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (if (i32.eq (global.get $how) (i32.const 1)) (then unreachable))
    (if (i32.eq (global.get $how) (i32.const 2)) (then (return (i32.const -8))))
    (if (i32.eq (global.get $how) (i32.const 3)) (then (return (i32.const 8193))))
    (if (i32.eq (global.get $how) (i32.const 4)) (then (return (global.get $pc))))
    (local.set $at (i32.and
      (i32.sub (i32.add (global.get $heap) (local.get $align)) (i32.const 1))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.const 524288)) (then unreachable))
    (local.get $at))

  (func $byte (result i32)
    (if (i32.ge_u (global.get $pc) (global.get $end)) (then (return (i32.const 0))))
    (i32.load8_u (global.get $pc))
    (global.set $pc (i32.add (global.get $pc) (i32.const 1))))
  (func $literal (result i64)
    (global.set $pc (i32.add (global.get $pc) (i32.const 8)))
    (if (result i64) (i32.gt_u (global.get $pc) (global.get $end))
      (then (i64.const 0))
      (else (i64.load (i32.sub (global.get $pc) (i32.const 8))))))
  ;; One of 64 places of results; a small number; a pointer to the program's own bytes or to what
  ;; was returned; any number.
  (func $arg (result i64) (local $tag i32) (local $low i32)
    (local.set $tag (call $byte))
    (local.set $low (i32.and (local.get $tag) (i32.const 63)))
    (if (i32.lt_u (local.get $tag) (i32.const 64))
      (then (return (i64.extend_i32_u (local.get $low)))))
    (if (i32.lt_u (local.get $tag) (i32.const 128))
      (then (return (i64.load (i32.add (i32.const 2048) (i32.shl (local.get $low) (i32.const 3)))))))
    (if (i32.lt_u (local.get $tag) (i32.const 192))
      (then (return (i64.extend_i32_u
        (i32.add (global.get $program) (i32.shl (local.get $low) (i32.const 2)))))))
    (if (i32.lt_u (local.get $tag) (i32.const 224))
      (then (return (i64.extend_i32_u
        (i32.add (i32.const 1024) (i32.shl (local.get $low) (i32.const 3)))))))
    (call $literal))
  ;; Where a function shall return to: nearly always where it is looked for.
  (func $ret (result i32)
    (if (i32.lt_u (call $byte) (i32.const 240)) (then (return (i32.const 1024))))
    (i32.wrap_i64 (call $arg)))
  (func $save (param i64)
    (i64.store (i32.add (i32.const 2048) (i32.shl (global.get $slot) (i32.const 3))) (local.get 0))
    (global.set $slot (i32.and (i32.add (global.get $slot) (i32.const 1)) (i32.const 63))))
  (func $save_returned
    (call $save (i64.load32_u (i32.const 1028)))
    (call $save (i64.load32_u (i32.const 1024))))

  (func $store (i64.store (i32.and (i32.wrap_i64 (call $arg)) (i32.const 0x7fff8)) (call $arg)))
  (func $load (call $save (i64.load (i32.and (i32.wrap_i64 (call $arg)) (i32.const 0x7fff8)))))
  (func $realloc (global.set $how (i32.wrap_i64 (call $arg))))
  (func $return (global.set $result (i32.wrap_i64 (call $arg))) (global.set $pc (global.get $end)))
  (func $grow (drop (memory.grow (i32.const 1))))
  (func $nothing)
  {calls}

  (func (export "run") (param $input i32) (result i32)
    (call $f{read} (local.get $input) (i64.const 0) (i32.const 49152) (i32.const 1024))
    (if (i32.load8_u (i32.const 1024)) (then unreachable))
    (global.set $program (i32.load (i32.const 1028)))
    (global.set $pc (global.get $program))
    (global.set $end (i32.add (global.get $pc) (i32.load (i32.const 1032))))
    (global.set $heap (i32.const 65536))
    (call $save (i64.extend_i32_u (local.get $input)))
    (loop $next
      (if (i32.lt_u (global.get $pc) (global.get $end)) (then
        (call_indirect (type $op) (i32.rem_u
          (i32.or (call $byte) (i32.shl (call $byte) (i32.const 8)))
          (i32.const {count})))
        (br $next))))
    (global.get $result)))
