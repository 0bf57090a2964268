"""What belongs nowhere else. Kept nearly empty."""
